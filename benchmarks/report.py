"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from .measure import AT_ONCE, Times, ratio

STORES = {
    "default": "PostgreSQL",
    "prepared": "prepared, async commit",
    "redis": "Redis",
}
Cells = dict[tuple[str, str, str], Times]  # by operation, size and store


def ratios(cells: Cells) -> Iterable[str]:
    """How many times faster ours is; and how much slower than the bare driver."""
    bare = [f"ours : bare, {name}" for name in STORES.values()]
    yield row("theirs : ours (ours)", "data", *STORES.values(), *bare)
    yield row(*(["---"] * 2 + ["---:"] * 6))
    for operation, size in dict.fromkeys((operation, size) for operation, size, _ in cells):
        of_stores = [cells.get((operation, size, store), {}) for store in STORES]
        yield row(operation, size, *map(_over_theirs, of_stores), *map(_over_bare, of_stores))


def requests(cells: Cells) -> Iterable[str]:
    sides = ["ours", "theirs", "none"]
    yield row(f"requests per second, {AT_ONCE} at once", "store", *sides, "ours : theirs")
    yield row("---", "---", "---:", "---:", "---:", "---:")
    for (what, store, _), times in cells.items():
        found = (f"{1e6 / median(times[side]):,.0f}" for side in sides)
        yield row(what, store, *found, _times_faster(times))


def sizes(cells: dict[tuple[str, str], dict[str, float]]) -> Iterable[str]:
    yield row("bytes per session", "size", "ours", "theirs")
    yield row("---", "---", "---:", "---:")
    for (what, size), found in cells.items():
        yield row(what, size, f"{found['ours']:,.0f}", f"{found['theirs']:,.0f}")


def _over_theirs(times: Times) -> str:
    return f"{_times_faster(times)} ({median(times['ours']):.0f} µs)" if times else ""


def _times_faster(times: Times) -> str:
    found = ratio(times, "theirs", "ours")
    return f"{found:.0f}x" if found >= 20 else f"{found:.2f}x"


def _over_bare(times: Times) -> str:
    return f"{ratio(times, 'ours', 'bare'):.2f}" if "bare" in times else ""


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
