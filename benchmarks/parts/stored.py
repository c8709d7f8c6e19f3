"""The bytes that a session takes in its store."""

from __future__ import annotations

from django_redis import get_redis_connection

from ..filling import TABLES, created, empty, number
from ..plots import bars
from ..report import Plot, Section, as_ratio, table
from ..scale import SIZES, Scale
from ..settings import NAMES
from ..sides import LOGIN, payload, stores

COLUMNS = {"ours": "data", "theirs": "session_data"}
ALL, DATA, MEMORY = (
    "PostgreSQL: table, indexes, all",
    "PostgreSQL: column of the data",
    "Redis: `MEMORY USAGE`",
)
Cells = dict[tuple[str, str], dict[str, float]]


def measured(scale: Scale) -> Section:
    cells = _cells(scale.stored)
    head = ["bytes per session", "data", "theirs : ours", "ours", "theirs"]
    rows = (
        [
            what,
            size,
            as_ratio(found["theirs"] / found["ours"]),
            *(f"{found[side]:,.0f}" for side in TABLES),
        ]
        for (what, size), found in cells.items()
    )
    about = (
        "Django compresses the data in its table where that makes it shorter, and django-redis'"
        " serializer is pickle; ours is JSON as it is, which PostgreSQL compresses from 2 kB on."
        " Ours has four indexes, two of them by user; Django's two are on longer keys."
        " `cached_db` takes what `db` and `cache` take together."
    )
    return Section("Bytes", about, [table(head, rows, texts=2)], {"bytes": _plot(cells)})


def _cells(sessions: int) -> Cells:
    cells: Cells = {}
    for size, length in SIZES.items():
        data = payload(length, **LOGIN)
        empty()
        with stores("default") as sides:
            for name in TABLES:
                created(sides[name], data, sessions)
            cells[ALL, size] = {
                name: number(f"pg_total_relation_size('{table}')", table) / sessions
                for name, table in TABLES.items()
            }
            cells[DATA, size] = {
                name: number(f"avg(pg_column_size({column}))", TABLES[name])
                for name, column in COLUMNS.items()
            }
        with stores("redis") as sides:
            used = {}
            for name in TABLES:
                created(sides[name], data, 1)
                client = get_redis_connection(name)
                # The session, and the index of its user.
                used[name] = sum(map(client.memory_usage, client.scan_iter()))
            cells[MEMORY, size] = used
    return cells


def _plot(cells: Cells) -> Plot:
    panels = {
        title: {
            NAMES[store, side]: {size: cells[what, size][side] for size in SIZES} for side in TABLES
        }
        for title, store, what in [
            ("PostgreSQL, bytes per session", "PostgreSQL", ALL),
            ("Redis, bytes per session", "Redis", MEMORY),
        ]
    }
    return Plot(bars(panels, "{:,.0f}"), "Bytes per session, as in the table")
