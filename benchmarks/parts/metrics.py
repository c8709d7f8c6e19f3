"""What `session_event` costs: without its code, while nobody listens, and with a receiver."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import Any
from unittest.mock import patch

from django.test import override_settings

from django_strategy_sessions import engine, steps
from django_strategy_sessions.signals import session_event

from ..filling import created
from ..measure import Times, each, ratio, turn_about
from ..report import Section, as_ratio, table
from ..scale import SIZES, Scale
from ..settings import ENGINES, middleware
from ..sides import Engine, payload

MEMORY = "django_strategy_sessions.strategies.memory.MemoryStrategy"
VERBS = {"load": "load", "load, change, save": "save"}
SIDES = ("without", "nobody", "counted")


def measured(scale: Scale) -> Section:
    head = ["operation", "nobody listens : no such code", "counted : no such code"]
    head += ["no such code", "nobody listens", "counted"]
    about = (
        "What the signal `session_event` costs, with 1 kB of data in `MemoryStrategy`, where no"
        " round trip hides it. *No such code*: the engine asks the strategy as it would without the"
        " signal. *Counted*: a receiver counts each event and adds up the durations."
    )
    with override_settings(SESSION_STRATEGY=MEMORY):
        rows = [[title, *_cells(_times(verb, scale))] for title, verb in VERBS.items()]
    return Section("Metrics", about, [table(head, rows)])


def _times(verb: str, scale: Scale) -> Times:
    side = Engine(ENGINES["PostgreSQL"]["ours"], middleware("ours"), str)
    keys = created(side, payload(SIZES["1 kB"]), scale.batch)
    events: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)

    def count(event: str, duration: float | None, **kwargs: Any) -> None:
        events[event] += 1
        seconds[event] += duration or 0

    def batch(name: str) -> float:
        if name == "without":
            with patch.object(engine, "ask", steps.run):
                return each(getattr(side, verb), keys)
        if name == "counted":
            session_event.connect(count)
        try:
            return each(getattr(side, verb), keys)
        finally:
            session_event.disconnect(count)

    return turn_about(SIDES, scale.rounds, batch)


def _cells(times: Times) -> list[str]:
    ratios = [as_ratio(ratio(times, name, "without")) for name in SIDES[1:]]
    return ratios + [f"{median(times[name]):.1f} µs" for name in SIDES]
