"""The move of a table of Django's to another store, beside visitors who come all the time."""

from __future__ import annotations

from time import perf_counter, sleep

from django.test import override_settings
from django_redis import get_redis_connection

from ..filling import TABLES, empty, fill, number
from ..report import Section, table
from ..scale import Scale
from ..settings import ENGINES, MOVING, middleware
from ..sides import Engine, stores
from .cleanup import INTERVAL, WRITERS, beside, in_99_of_100, told, writing


def measured(scale: Scale) -> Section:
    rows = [_move(store, scale) for store in MOVING]
    about = (
        f"`manage.py movesessions` moves {scale.moved:,} sessions of Django's `db` engine, while"
        f" {WRITERS} threads load, change and save a session every {INTERVAL * 1000:.0f} ms each,"
        " with the cookies of before the move. A write that finds no session would end the"
        " benchmark, and so would a session too many or too few."
    )
    head = ["target", "sessions a second", "p99 of live writes, no command", "beside it"]
    return Section("Move", about, [table([*head, "the longest beside it"], rows)])


def _move(store: str, scale: Scale) -> list[str]:
    empty()
    with (
        stores("default"),
        override_settings(SESSION_STRATEGY=MOVING[store]),
        beside("movesessions", store, "moving") as command,
    ):
        side = Engine(ENGINES[store]["ours"], middleware("ours"), lambda: "")
        keys = fill("theirs", scale.moved)
        with writing(side, keys) as written:
            sleep(scale.calm_seconds)
            while not written:
                sleep(INTERVAL)
            begun, left = perf_counter(), number("count(*)", TABLES["theirs"])
            seconds = told(command, "now")
    calm = [milliseconds for done, milliseconds in written if done < begun]
    busy = [milliseconds for done, milliseconds in written if done >= begun]
    assert number("count(*)", TABLES["theirs"]) == 0, "sessions were left behind"
    assert _count(store) == scale.moved, f"{_count(store):,.0f} sessions are in {store}"
    times = in_99_of_100(calm), in_99_of_100(busy), max(busy)
    return [store, f"{left / seconds:,.0f}", *(f"{each:.1f} ms" for each in times)]


def _count(store: str) -> float:
    if store == "Redis":
        keys = get_redis_connection("ours").scan_iter(count=10_000)
        return float(sum(b"owner:" not in key for key in keys))  # the rest is indexes
    return number("count(*)", TABLES["ours"])
