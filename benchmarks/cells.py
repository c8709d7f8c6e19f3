"""Every operation, size and store: the cells of the tables."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

from django.contrib.sessions.models import Session
from django.db import connections
from django.test import override_settings
from django_redis import get_redis_connection

from django_strategy_sessions.models import StoredSession

from .asgi import site, stack
from .measure import BATCH, Times, each, together, turn_about
from .report import STORES, Cells
from .settings import Router
from .sides import LOGIN, OPERATIONS, Data, Operation, Side, payload, stores

SIZES = {"0.2 kB": 200, "1 kB": 1000, "10 kB": 10000}
TABLES = {"ours": StoredSession._meta.db_table, "theirs": Session._meta.db_table}
COLUMNS = {"ours": "data", "theirs": "session_data"}


def sync_cells(sizes: Iterable[str], rounds: int) -> Cells:
    cells: Cells = {}
    for alias in STORES:
        with stores(alias) as sides:
            for operation in OPERATIONS:
                for size in sizes:
                    empty()
                    with override_settings(**dict(operation.settings)):
                        times = _times(operation, SIZES[size], sides, rounds)
                    cells[operation.title, size, alias] = times
    return cells


def _times(operation: Operation, length: int, sides: dict[str, Side], rounds: int) -> Times:
    data = payload(length) if operation.spends else payload(length, **LOGIN)
    kept = {name: _created(side, data) for name, side in sides.items()}

    def batch(name: str) -> float:
        side = sides[name]
        if operation.verb == "create":
            subjects: list[Any] = [data] * BATCH
        elif operation.verb == "forged":
            subjects = [side.forge() for _ in range(BATCH)]
        elif operation.spends:
            subjects = _created(side, data)
        else:
            subjects = random.sample(kept[name], BATCH)
        return each(getattr(side, operation.verb), subjects)

    able = [name for name, side in sides.items() if hasattr(side, operation.verb)]
    return turn_about(able, rounds, batch)


def async_cells(runner: asyncio.Runner, rounds: int) -> Cells:
    """Requests that read a session of 1 kB; and, for comparison, where there are no sessions."""
    cells: Cells = {}
    for title, make, alias, store in [
        ("whole application", site, "closing", "PostgreSQL"),
        ("whole application", site, "pooled", "PostgreSQL, Django's pool"),
        ("whole application", site, "redis", "Redis"),
        ("middleware and view", stack, "default", "PostgreSQL"),
        ("middleware and view", stack, "redis", "Redis"),
    ]:
        with stores(alias) as sides:
            visits = {name: make(sides[name]) for name in ("ours", "theirs")}
            visits["none"] = make(None)
            keys = {name: _created(side, payload(1000, **LOGIN)) for name, side in sides.items()}
            keys["none"] = keys["bare"]

            def batch(name: str, keys: Any = keys, visits: Any = visits) -> float:
                return together(runner, visits[name], keys[name])

            cells[title, store, alias] = turn_about(list(visits), rounds, batch)
    return cells


def size_cells(sessions: int) -> dict[tuple[str, str], dict[str, float]]:
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for size, length in SIZES.items():
        data = payload(length, **LOGIN)
        empty()
        with stores("default") as sides:
            for name in TABLES:
                _created(sides[name], data, sessions)
            cells["PostgreSQL: table, indexes, all", size] = {
                name: _number(f"pg_total_relation_size('{table}')", table) / sessions
                for name, table in TABLES.items()
            }
            cells["PostgreSQL: column of the data", size] = {
                name: _number(f"avg(pg_column_size({column}))", TABLES[name])
                for name, column in COLUMNS.items()
            }
        with stores("redis") as sides:
            used = {}
            for name in TABLES:
                _created(sides[name], data, 1)
                client = get_redis_connection(name)
                used[name] = client.memory_usage(client.randomkey())
            cells["Redis: MEMORY USAGE", size] = used
    return cells


def empty() -> None:
    with connections[Router.alias].cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(TABLES.values())}")
    for name in ("ours", "theirs", "bare"):
        get_redis_connection(name).flushdb()


def _created(side: Side, data: Data, count: int = BATCH) -> list[Any]:
    return [side.create(data) for _ in range(count)]


def _number(expression: str, table: str) -> float:
    with connections[Router.alias].cursor() as cursor:
        cursor.execute(f"SELECT {expression} FROM {table}")  # noqa: S608
        return float(cursor.fetchone()[0])
