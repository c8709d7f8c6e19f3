"""One operation after the other, without a site around them."""

from __future__ import annotations

import random
from typing import Any

from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from ..filling import created, empty
from ..measure import Times, each, ratio, turn_about
from ..plots import bars
from ..report import Plot, Section, Table, as_ratio, microseconds, table, times_faster
from ..scale import SIZES, Scale
from ..sides import LOGIN, OPERATIONS, Operation, Side, payload, stores

STORES = {
    "default": "PostgreSQL",
    "prepared": "prepared, async commit",
    "redis": "Redis",
    "cached": "PostgreSQL, cached",
}
Cells = dict[tuple[str, str, str], Times]  # by operation, size and store


def measured(scale: Scale) -> Section:
    cells = _cells(scale)
    about = (
        "How many times faster than Django's engine. *Prepared, async commit* is PostgreSQL with"
        " prepared statements and `synchronous_commit=off` for every side. *ours : bare* is our"
        " time against that of the bare driver, which makes the same round trips and handles the"
        " same JSON. *Rolling* is `SESSION_SAVE_EVERY_REQUEST` where nothing changed. *Cached* is"
        " PostgreSQL with Redis in front. The last table counts statements on PostgreSQL, of an"
        " operation on a session that a cache has."
    )
    tables = [_ratios(cells), _times(cells), _queries()]
    return Section("Operations", about, tables, {"operations": _plot(cells)})


def _cells(scale: Scale) -> Cells:
    cells: Cells = {}
    for alias in STORES:
        with stores(alias) as sides:
            for operation in OPERATIONS:
                for size in scale.sizes:
                    empty()
                    with override_settings(**dict(operation.settings)):
                        times = _turns(operation, SIZES[size], sides, scale)
                    cells[operation.title, size, alias] = times
    return cells


def _turns(operation: Operation, length: int, sides: dict[str, Side], scale: Scale) -> Times:
    data = payload(length) if operation.spends else payload(length, **LOGIN)
    kept = {name: created(side, data, scale.batch) for name, side in sides.items()}

    def batch(name: str) -> float:
        side = sides[name]
        if operation.verb == "create":
            subjects: list[Any] = [data] * scale.batch
        elif operation.verb == "forged":
            subjects = [side.forge() for _ in range(scale.batch)]  # type: ignore[attr-defined]
        elif operation.spends:
            subjects = created(side, data, scale.batch)
        else:
            subjects = random.sample(kept[name], scale.batch)
        return each(getattr(side, operation.verb), subjects)

    able = [name for name, side in sides.items() if hasattr(side, operation.verb)]
    return turn_about(able, scale.rounds, batch)


def _ratios(cells: Cells) -> Table:
    columns = [
        ("db : ours", "default", "theirs"),
        ("cached_db : ours, cached", "cached", "theirs"),
        ("db : ours, prepared, async commit", "prepared", "theirs"),
        ("cache : ours", "redis", "theirs"),
    ]
    head = ["operation", "data", *(title for title, _, _ in columns)]
    head += [f"ours : bare, {name}" for store, name in STORES.items() if store != "cached"]
    return table(
        head,
        (
            [
                operation,
                size,
                *(times_faster(cells[operation, size, s], than) for _, s, than in columns),
                *(_over_bare(cells[operation, size, s]) for s in STORES if s != "cached"),
            ]
            for operation, size in _lines(cells)
        ),
        texts=2,
    )


def _times(cells: Cells) -> Table:
    columns = [
        ("ours, PostgreSQL", "default", "ours"),
        ("db", "default", "theirs"),
        ("ours, cached", "cached", "ours"),
        ("cached_db", "cached", "theirs"),
        ("ours, prepared", "prepared", "ours"),
        ("db, prepared", "prepared", "theirs"),
        ("ours, Redis", "redis", "ours"),
        ("cache", "redis", "theirs"),
    ]
    return table(
        ["operation", "data", *(title for title, _, _ in columns)],
        (
            [
                operation,
                size,
                *(microseconds(cells[operation, size, s], side) for _, s, side in columns),
            ]
            for operation, size in _lines(cells)
        ),
        texts=2,
    )


def _queries() -> Table:
    """The statements of each operation, with those that begin and end transactions."""
    columns = {"ours": ("default", "ours"), "db": ("default", "theirs")}
    columns |= {"ours, cached": ("cached", "ours"), "cached_db": ("cached", "theirs")}
    counts: dict[tuple[str, str], int] = {}
    for title, (alias, name) in columns.items():
        with stores(alias) as sides:
            for operation in OPERATIONS:
                side: Any = sides[name]
                with override_settings(**dict(operation.settings)):
                    subject: Any = side.create(payload(1000))
                    side.load(subject)
                    if operation.verb == "create":
                        subject = payload(1000)
                    elif operation.verb == "forged":
                        subject = side.forge()
                    with CaptureQueriesContext(connections["default"]) as captured:
                        getattr(side, operation.verb)(subject)
                counts[operation.title, title] = len(captured)
    return table(
        ["statements", *columns],
        ([each.title, *(str(counts[each.title, c]) for c in columns)] for each in OPERATIONS),
        texts=1,
    )


def _plot(cells: Cells) -> Plot:
    compared = {"db": ("default", "theirs"), "cached_db": ("cached", "theirs")}
    compared["cache"] = ("redis", "theirs")
    values = {
        name: {
            operation: ratio(cells[operation, "1 kB", store], side, "ours")
            for operation, size in _lines(cells)
            if size == "1 kB"
        }
        for name, (store, side) in compared.items()
    }
    title = "Times faster than Django's engine, 1 kB of data"
    return Plot(bars({title: values}, "{:.3g}x", ratios=True), f"{title}; as in the table")


def _lines(cells: Cells) -> list[tuple[str, str]]:
    return list(dict.fromkeys((operation, size) for operation, size, _ in cells))


def _over_bare(times: Times) -> str:
    return as_ratio(ratio(times, "ours", "bare")) if "bare" in times else ""
