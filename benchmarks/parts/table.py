"""Growth with the table: few rows and many."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

from ..filling import LENGTH, empty, fill
from ..measure import Times, each, turn_about
from ..plots import curves
from ..report import Plot, Section, microseconds, table, times_faster
from ..scale import Scale
from ..settings import NAMES
from ..sides import LOGIN, Side, payload, stores

SIDES = ("ours", "theirs")
VERBS = {"load": "load", "load, change, save": "save", "create": "create", "logout": "logout"}
Cells = dict[tuple[str, int], Times]  # by operation and rows


def measured(scale: Scale) -> Section:
    cells = _cells(scale)
    head = ["operation", "rows", "db : ours", *(NAMES["PostgreSQL", side] for side in SIDES)]
    rows = (
        [what, f"{count:,}", times_faster(times), *(microseconds(times, side) for side in SIDES)]
        for (what, count), times in cells.items()
    )
    about = (
        f"Sessions of {LENGTH} bytes in PostgreSQL, copied in as each side writes them, and taken"
        " from anywhere in the table."
    )
    return Section("Growth with the table", about, [table(head, rows)], {"table": _plot(cells)})


def _cells(scale: Scale) -> Cells:
    found: Cells = {}
    for count in scale.table_rows:
        empty()
        with stores("default") as sides:
            keys = {name: fill(name, count) for name in SIDES}
            for title, verb in VERBS.items():
                times = _turns(verb, sides, keys, scale)
                found[title, count] = times
    return {(title, count): found[title, count] for title in VERBS for count in scale.table_rows}


def _turns(verb: str, sides: dict[str, Side], keys: dict[str, list[str]], scale: Scale) -> Times:
    data = payload(LENGTH, **LOGIN)

    def batch(name: str) -> float:
        if verb == "create":
            subjects: list[Any] = [data] * scale.batch
        elif verb == "logout":
            subjects = [keys[name].pop() for _ in range(scale.batch)]
        else:
            subjects = random.choices(keys[name], k=scale.batch)
        return each(getattr(sides[name], verb), subjects)

    return turn_about(SIDES, scale.growth_rounds, batch)


def _plot(cells: Cells) -> Plot:
    panels = {
        f"{title}, µs": {
            NAMES["PostgreSQL", side]: {
                count: median(times[side])
                for (what, count), times in cells.items()
                if what == title
            }
            for side in SIDES
        }
        for title in VERBS
    }
    return Plot(curves(panels, "rows"), "Time per operation by rows in the table; as in the table")
