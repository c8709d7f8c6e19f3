"""How it is measured: turn about, in small batches, by medians."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter_ns
from typing import Any

AT_ONCE = 16  # requests in an event loop
WARM_UP = 1  # rounds that do not count

Times = dict[str, list[float]]  # by side: of each round, in microseconds


def turn_about(sides: Sequence[str], rounds: int, batch: Callable[[str], float]) -> Times:
    """What `batch` measures. Each round begins with the next side."""
    times: Times = {side: [] for side in sides}
    for turn in range(rounds + WARM_UP):
        first = turn % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            time = batch(side)
            if turn >= WARM_UP:
                times[side].append(time)
    return times


def ratio(times: Times, one: str, other: str) -> float:
    """The median of the rounds' ratios: the machine's moods last longer than a round."""
    return median(a / b for a, b in zip(times[one], times[other], strict=True))


def each(call: Callable[[Any], Any], subjects: Iterable[Any]) -> float:
    """The median time of a call, one after the other."""
    times = []
    with _quiet():
        for subject in subjects:
            start = perf_counter_ns()
            call(subject)
            times.append(perf_counter_ns() - start)
    return median(times) / 1000


def together(
    runner: asyncio.Runner, call: Callable[[Any], Awaitable[Any]], subjects: Iterable[Any]
) -> float:
    """The time per call where `AT_ONCE` are always under way."""
    left = iter(list(subjects))

    async def visitor() -> int:
        count = 0
        for subject in left:
            await call(subject)
            count += 1
        return count

    async def crowd() -> int:
        return sum(await asyncio.gather(*(visitor() for _ in range(AT_ONCE))))

    with _quiet():
        start = perf_counter_ns()
        count = runner.run(crowd())
        return (perf_counter_ns() - start) / count / 1000


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection in the middle: it would slow whichever side is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
