"""How many updates of ours need no new index entries: HOT ones, by fillfactor."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import time_machine
from django.db import connections

from ..filling import TABLES, empty, execute
from ..report import Section, table
from ..scale import Scale
from ..settings import Router
from ..sides import payload, stores

FILLFACTORS = [100, 90, 80, 70]
INTERVALS = [0, 30, 60]  # seconds between two writes of a session


def measured(scale: Scale) -> Section:
    head = ["data", "written every", *(f"fillfactor {value}" for value in FILLFACTORS)]
    rows = (
        [
            f"{size / 1000} kB",
            f"{seconds} s",
            *(f"{_share(factor, size, seconds, scale):.0%}" for factor in FILLFACTORS),
        ]
        for size in (500, 2000)
        for seconds in INTERVALS
    )
    about = (
        f"The share of our updates that left PostgreSQL's indexes alone: {scale.hot_sessions}"
        f" sessions, each written {scale.hot_rounds} times. The migration sets fillfactor 80."
    )
    return Section("HOT updates", about, [table(head, rows, texts=2)])


def _share(fillfactor: int, size: int, seconds: int, scale: Scale) -> float:
    with stores("prepared") as sides:
        empty()
        execute(f"ALTER TABLE {TABLES['ours']} SET (fillfactor = {fillfactor})")
        begin = datetime(2030, 1, 1, tzinfo=UTC)
        with time_machine.travel(begin, tick=False) as clock:
            keys = [sides["ours"].create(payload(size)) for _ in range(scale.hot_sessions)]
            before = _counts()
            for turn in range(1, scale.hot_rounds + 1):
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
