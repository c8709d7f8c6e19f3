"""What a rotation's marker costs: the bare driver rotates with a marker and without one."""

from __future__ import annotations

from statistics import median

from ..filling import created, empty
from ..measure import Times, each, turn_about
from ..report import Section, microseconds, table
from ..scale import SIZES, Scale
from ..sides import LOGIN, Data, UnmarkedPostgres, UnmarkedRedis, payload, stores

STORES = {"default": "PostgreSQL", "redis": "Redis"}
SIDES = ("ours", "bare", "unmarked")
VERBS = {"rotation": "rotate", "login": "login"}
Cells = dict[tuple[str, str, str], Times]  # by operation, size and store


def measured(scale: Scale) -> Section:
    head = ["operation", "data", "store", "the marker", "its share of ours"]
    head += ["ours", "bare", "bare, no marker"]
    rows = (
        [*cell, *_marker(times), *(microseconds(times, side) for side in SIDES)]
        for cell, times in _cells(scale).items()
    )
    about = (
        "After a rotation, the old key holds a marker for a minute, so requests that had loaded the"
        " session before can still save. The bare driver rotates with a marker, and without one, as"
        " an `UPDATE` of the id and a script that deletes the old key. The difference is what the"
        " marker costs. A *rotation* loads the session first; a *login* also saves it afterwards."
    )
    return Section("Rotation", about, [table(head, rows, texts=3)])


def _cells(scale: Scale) -> Cells:
    cells: Cells = {}
    for alias, store in STORES.items():
        with stores(alias) as sides:
            sides["unmarked"] = UnmarkedRedis() if store == "Redis" else UnmarkedPostgres()
            for title, verb in VERBS.items():
                for size in scale.sizes:
                    empty()
                    data = payload(SIZES[size], **({} if verb == "login" else LOGIN))

                    def batch(name: str, verb: str = verb, data: Data = data) -> float:
                        side = sides[name]
                        return each(getattr(side, verb), created(side, data, scale.batch))

                    cells[title, size, store] = turn_about(SIDES, scale.rounds, batch)
    return cells


def _marker(times: Times) -> list[str]:
    """The median of the rounds' differences."""
    pairs = zip(times["bare"], times["unmarked"], strict=True)
    cost = median(bare - unmarked for bare, unmarked in pairs)
    return [f"{cost:.0f} µs", f"{cost / median(times['ours']):.0%}"]
