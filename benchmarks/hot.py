"""How many updates of ours need no new index entries: HOT ones, by fillfactor."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import time_machine
from django.db import connections

from .cells import TABLES, empty
from .report import row
from .settings import Router
from .sides import payload, stores

FILLFACTORS = [100, 90, 80, 70]
INTERVALS = [0, 30, 60]  # seconds between two writes of a session
SESSIONS = 500


def shares(rounds: int) -> Iterator[str]:
    yield row("size", "written every", *(f"fillfactor {value}" for value in FILLFACTORS))
    yield row("---", "---:", *("---:" for _ in FILLFACTORS))
    for size in (500, 2000):
        for seconds in INTERVALS:
            found = [_share(factor, size, seconds, rounds) for factor in FILLFACTORS]
            yield row(f"{size / 1000} kB", f"{seconds} s", *(f"{share:.0%}" for share in found))


def _share(fillfactor: int, size: int, seconds: int, rounds: int) -> float:
    table = TABLES["ours"]
    with stores("prepared") as sides:
        empty()
        _run(f"ALTER TABLE {table} SET (fillfactor = {fillfactor})")
        begin = datetime(2030, 1, 1, tzinfo=UTC)
        with time_machine.travel(begin, tick=False) as clock:
            keys = [sides["ours"].create(payload(size)) for _ in range(SESSIONS)]
            before = _counts()
            for turn in range(1, rounds + 1):
                clock.move_to(begin + timedelta(seconds=turn * seconds))
                for key in random.sample(keys, len(keys)):
                    sides["ours"].save(key)
        after = _counts()
    updates, hot = (now - then for now, then in zip(after, before, strict=True))
    return hot / updates


def _counts() -> tuple[int, int]:
    connections[Router.alias].close()  # which hands in what it has counted
    sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s"
    with connections[Router.alias].cursor() as cursor:
        cursor.execute(sql, [TABLES["ours"]])
        counts: tuple[int, int] = cursor.fetchone()
        return counts


def _run(sql: str) -> None:
    with connections[Router.alias].cursor() as cursor:
        cursor.execute(sql)
