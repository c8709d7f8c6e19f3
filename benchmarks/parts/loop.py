"""Requests in one event loop, without a server: what the session costs an async view."""

from __future__ import annotations

import asyncio
from typing import Any

from ..asgi import site, stack
from ..filling import created
from ..measure import AT_ONCE, Times, together, turn_about
from ..report import Section, per_second, table, times_faster
from ..scale import Scale
from ..sides import LOGIN, payload, stores

SIDES = ("ours", "theirs", "none")


def measured(scale: Scale) -> Section:
    with asyncio.Runner() as runner:
        cells = _cells(runner, scale)
    head = ["what is called", "store", "ours : theirs", "ours", "theirs", "no sessions"]
    rows = (
        [what, store, times_faster(times), *(per_second(times, side) for side in SIDES)]
        for (what, store), times in cells.items()
    )
    about = (
        f"Requests a second, {AT_ONCE} at once, in the benchmark's own event loop: an async view"
        " reads a session of 1 kB. *Theirs* is `db`, and `cache` on Redis. The whole application is"
        " `ASGIHandler` as a server calls it; the same without sessions shows what remains."
    )
    return Section("In an event loop", about, [table(head, rows, texts=2)])


def _cells(runner: asyncio.Runner, scale: Scale) -> dict[tuple[str, str], Times]:
    cells: dict[tuple[str, str], Times] = {}
    for title, make, alias, store in [
        ("whole application", site, "closing", "PostgreSQL"),
        ("whole application", site, "pooled", "PostgreSQL, Django's pool"),
        ("whole application", site, "redis", "Redis"),
        ("middleware and view", stack, "default", "PostgreSQL"),
        ("middleware and view", stack, "redis", "Redis"),
    ]:
        with stores(alias) as sides:
            data = payload(1000, **LOGIN)
            visits: dict[str, Any] = {name: make(sides[name]) for name in ("ours", "theirs")}  # type: ignore[arg-type]
            keys = {name: created(sides[name], data, scale.batch) for name in visits}
            visits["none"], keys["none"] = make(None), keys["theirs"]

            def batch(name: str, keys: Any = keys, visits: Any = visits) -> float:
                return together(runner, visits[name], keys[name])

            cells[title, store] = turn_about(SIDES, scale.loop_rounds, batch)
    return cells
