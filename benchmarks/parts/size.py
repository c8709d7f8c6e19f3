"""Growth with the session's size."""

from __future__ import annotations

import random
from statistics import median

from ..filling import created, empty
from ..measure import Times, each, turn_about
from ..plots import curves
from ..report import Plot, Section, microseconds, table, times_faster
from ..scale import Scale
from ..settings import ENGINES, NAMES
from ..sides import LOGIN, Side, payload, stores

ALIASES = {"PostgreSQL": "default", "Redis": "redis"}
VERBS = {"load": "load", "load, change, save": "save"}
Cells = dict[tuple[str, int, str], Times]  # by operation, bytes and store


def measured(scale: Scale) -> Section:
    cells = _cells(scale)
    head = ["operation", "bytes", "db : ours", "cached_db : ours", "cache : ours", *NAMES.values()]
    rows = (
        [
            what,
            f"{length:,}",
            times_faster(cells[what, length, "PostgreSQL"]),
            times_faster(cells[what, length, "PostgreSQL"], "cached"),
            times_faster(cells[what, length, "Redis"]),
            *(microseconds(cells[what, length, store], side) for store, side in NAMES),
        ]
        for what in VERBS
        for length in scale.lengths
    )
    about = (
        "By the bytes of its data as JSON, which is of many values: numbers, words, and tokens that"
        " hardly compress."
    )
    return Section("Growth with the session", about, [table(head, rows)], {"size": _plot(cells)})


def _cells(scale: Scale) -> Cells:
    cells: Cells = {}
    for store, alias in ALIASES.items():
        with stores(alias) as sides:
            for length in scale.lengths:
                empty()
                for title, verb in VERBS.items():
                    times = _turns(verb, length, {s: sides[s] for s in ENGINES[store]}, scale)
                    cells[title, length, store] = times
    return cells


def _turns(verb: str, length: int, sides: dict[str, Side], scale: Scale) -> Times:
    data = payload(length, **LOGIN)
    keys = {name: created(side, data, scale.batch) for name, side in sides.items()}

    def batch(name: str) -> float:
        return each(getattr(sides[name], verb), random.sample(keys[name], scale.batch))

    return turn_about(list(sides), scale.growth_rounds, batch)


def _plot(cells: Cells) -> Plot:
    panels = {
        f"{title}, µs": {
            name: {
                length: median(times[side])
                for (what, length, of), times in cells.items()
                if (what, of) == (title, store)
            }
            for (store, side), name in NAMES.items()
        }
        for title in VERBS
    }
    figure = curves(panels, "bytes", logarithmic=True)
    return Plot(figure, "Time per operation by the session's bytes; as in the table")
