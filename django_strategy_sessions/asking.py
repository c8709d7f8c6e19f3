"""Ask the strategy. Where somebody listens to `session_event`, tell what became of each call."""

from __future__ import annotations

from collections.abc import Coroutine
from time import perf_counter
from typing import Any, TypeVar

from .signals import (
    CREATED,
    ENDED,
    LOADED,
    MISSED,
    ROTATED,
    SAVED,
    UNAVAILABLE,
    session_event,
    tell,
)
from .steps import Steps, arun, run
from .strategies.base import SessionStrategy, StrategyUnavailable

T = TypeVar("T")

# What a verb has done if it answers, or for the first four if it answers with a session.
_EVENTS = {
    "load": LOADED,
    "insert": CREATED,
    "merge": SAVED,
    "rotate": ROTATED,
    "end": ENDED,
    "delete_data": ENDED,
}


def ask(strategy: SessionStrategy, steps: Steps[T]) -> T:
    """Run the steps, whose calls are the engine's of its strategy."""
    return run(strategy, _told(type(strategy), steps) if session_event.receivers else steps)


def aask(strategy: SessionStrategy, steps: Steps[T]) -> Coroutine[Any, Any, T]:
    return arun(strategy, _told(type(strategy), steps) if session_event.receivers else steps)


def _told(sender: type, steps: Steps[T]) -> Steps[T]:
    """Yield the same calls."""
    try:
        asked = next(steps)
        while True:
            started = perf_counter()
            try:
                answer = yield asked
            except Exception as error:
                if isinstance(error, StrategyUnavailable):
                    tell(sender, UNAVAILABLE, perf_counter() - started)
                asked = steps.throw(error)
            else:
                _tell(sender, asked[0], answer, perf_counter() - started)
                asked = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _tell(sender: type, verb: str, answer: object, duration: float) -> None:
    if verb == "end_owned" and isinstance(answer, int):
        for _ in range(answer):
            tell(sender, ENDED, duration / answer)
    elif (event := _EVENTS.get(verb)) is not None:
        tell(sender, MISSED if answer is None and event != ENDED else event, duration)
