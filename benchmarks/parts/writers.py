"""Writers of one session, all at once: how fast they are, and what is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from time import perf_counter

from django.contrib.sessions.backends.base import UpdateError
from django.db import connections

from django_strategy_sessions.strategies.base import StrategyUnavailable

from ..filling import empty
from ..measure import turn_about
from ..plots import curves
from ..report import Plot, Section, as_ratio, table
from ..scale import Scale
from ..settings import ENGINES, NAMES
from ..sides import Engine, payload, stores


@dataclass
class Race:
    seconds: float = 0
    acknowledged: int = 0
    lost: int = 0
    refused: int = 0

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds

    @property
    def share_lost(self) -> float:
        return self.lost / max(1, self.acknowledged)

    @property
    def kept(self) -> float:
        return self.rate * (1 - self.share_lost)


Cells = dict[tuple[int, str], Race]  # by writers and name


def measured(scale: Scale) -> Section:
    cells: Cells = {}
    for store, alias in (("PostgreSQL", "default"), ("Redis", "redis")):
        with stores(alias) as sides:
            for writers in scale.writers:
                races = _races({s: sides[s] for s in ENGINES[store]}, writers, scale)  # type: ignore[misc]
                cells |= {(writers, NAMES[store, side]): race for side, race in races.items()}
    compared = [
        ("db", "ours, PostgreSQL"),
        ("cached_db", "ours, PostgreSQL"),
        ("cache", "ours, Redis"),
    ]
    kept = table(
        ["writers", *(f"kept writes, ours : {theirs}" for theirs, _ in compared)],
        (
            [
                str(writers),
                *(
                    _faster(cells[writers, ours].kept, cells[writers, theirs].kept)
                    for theirs, ours in compared
                ),
            ]
            for writers in scale.writers
        ),
    )
    rates = table(
        ["writes a second (lost)", *NAMES.values()],
        (
            [str(writers), *(_told(cells[writers, name]) for name in NAMES.values())]
            for writers in scale.writers
        ),
    )
    about = (
        "Threads that all load, change and save one session of 1 kB, each a name of its own. A"
        " write is lost if it was acknowledged and its writer does not find it at its next load."
        " With one client process, more writers are not faster; what they do is collide."
    )
    refused = sum(race.refused for race in cells.values())
    if refused:
        about += f" {refused:,} writes were refused with an error; they count as neither."
    return Section("Writers of one session", about, [kept, rates], {"writers": _plot(cells)})


def _races(sides: dict[str, Engine], writers: int, scale: Scale) -> dict[str, Race]:
    """Of each side all rounds together: they took the same time."""
    races: dict[str, list[Race]] = {side: [] for side in sides}

    def batch(name: str) -> float:
        races[name].append(_race(sides[name], writers, scale.race_seconds))
        return races[name][-1].seconds

    empty()
    turn_about(list(sides), scale.race_rounds, batch)
    return {name: _together(found) for name, found in races.items()}


def _together(races: list[Race]) -> Race:
    return Race(*(sum(getattr(race, name) for race in races) for name in Race.__dataclass_fields__))


def _race(side: Engine, writers: int, seconds: float) -> Race:
    key = side.create(payload(1000))
    together = Barrier(writers)

    def write(number: int) -> Race:
        race, name, value = Race(), f"writer_{number}", 0
        try:
            side.load(key)  # and so connect
            together.wait()
            begun = perf_counter()
            while True:
                session = side.store(key)
                race.lost += session.get(name, 0) != value
                race.seconds = perf_counter() - begun
                if race.seconds > seconds:
                    return race
                session[name] = value + 1
                try:
                    session.save()
                except (UpdateError, StrategyUnavailable):
                    race.refused += 1
                    value = side.store(key).get(name, 0)
                else:
                    race.acknowledged += 1
                    value += 1
        finally:
            connections.close_all()

    with ThreadPoolExecutor(writers) as pool:
        races = list(pool.map(write, range(writers)))
    total = _together(races)
    total.seconds = max(race.seconds for race in races)
    return total


def _faster(ours: float, theirs: float) -> str:
    return as_ratio(ours / theirs) if theirs else "nothing kept"


def _told(race: Race) -> str:
    return f"{race.rate:,.0f} ({race.share_lost:.0%})"


def _plot(cells: Cells) -> Plot:
    writers = list(dict.fromkeys(count for count, _ in cells))
    names = list(NAMES.values())
    panels = {
        "Kept writes a second": {
            name: {count: cells[count, name].kept for count in writers} for name in names
        },
        "Acknowledged and lost, %": {
            name: {count: 100 * cells[count, name].share_lost for count in writers}
            for name in names
        },
    }
    return Plot(curves(panels, "writers"), "Kept and lost writes by writers; as in the table")
