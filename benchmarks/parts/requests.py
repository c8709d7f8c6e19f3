"""Requests a second to a small site with login, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from statistics import median

from ..filling import empty
from ..measure import AT_ONCE, Times, ratio, turn_about
from ..plots import bars
from ..report import Plot, Section, Table, as_ratio, per_second, table
from ..scale import Scale
from ..servers import on_servers_cpu
from ..settings import SITES, Router
from ..site.process import Site
from ..site.visitors import Visitor, logged_in, register, time_per_visit

SERVERS = {"wsgi": "WSGI, gunicorn", "asgi": "ASGI, uvicorn"}
VERBS = ["read", "write", "login"]
COMPARED = [
    ("db", "ours, PostgreSQL"),
    ("cached_db", "ours, cached"),
    ("cache", "ours, Redis"),
]
Cells = dict[tuple[str, str], Times]  # by server and verb; the times by the names of the sides


def measured(scale: Scale) -> Section:
    Router.alias = "default"
    empty()
    names = register(AT_ONCE)
    cells: Cells = {}
    # Two processes of one site differ by up to a tenth, for as long as they live.
    for interface, server in list(SERVERS.items()) * scale.site_processes:
        with asyncio.Runner() as runner, _visited(interface, names, runner) as visitors:
            for verb in VERBS:

                def batch(name: str, verb: str = verb, visitors: Visitors = visitors) -> float:
                    return runner.run(time_per_visit(visitors[name], verb, scale.site_seconds))

                times = cells.setdefault((server, verb), {})
                for name, more in turn_about(list(visitors), scale.site_rounds, batch).items():
                    times.setdefault(name, []).extend(more)
    about = (
        f"A site with the middleware of `startproject`, and {AT_ONCE} users who have logged in with"
        " Django's own forms of authentication. Each asks for a page, and when it has come for the"
        " next: one that *reads* the user and a session of 1 kB, one that *writes* the session, or"
        " a *login* (from login to login; its password is hashed with MD5, or that were all it"
        " takes). gunicorn has one process with as many threads as there are users, uvicorn one"
        " process, with uvloop and httptools; each is started several times, because two processes"
        " of one site differ. Under uvicorn Django's database connections come from its own pool."
        " The visitors have the CPU of the databases, the site has its own."
    )
    return Section(
        "Requests a second", about, [_ratios(cells), _rates(cells)], {"requests": _plot(cells)}
    )


Visitors = dict[str, list[Visitor]]


@contextmanager
def _visited(interface: str, names: list[str], runner: asyncio.Runner) -> Iterator[Visitors]:
    """The sites of all sides, and on each its users."""
    with ExitStack() as stack:
        sites = {
            name: Site(interface, store, side, AT_ONCE) for (store, side), name in SITES.items()
        }
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, sites.values()))
        stack.enter_context(on_servers_cpu())
        clients = AsyncExitStack()
        stack.callback(lambda: runner.run(clients.aclose()))
        yield {
            name: runner.run(clients.enter_async_context(logged_in(site.url, names)))
            for name, site in sites.items()
        }


def _ratios(cells: Cells) -> Table:
    return table(
        ["server", "request", *(f"ours : {theirs}" for theirs, _ in COMPARED)],
        (
            [server, verb, *(as_ratio(ratio(times, theirs, ours)) for theirs, ours in COMPARED)]
            for (server, verb), times in cells.items()
        ),
        texts=2,
    )


def _rates(cells: Cells) -> Table:
    return table(
        ["server", "requests a second", *SITES.values()],
        (
            [server, verb, *(per_second(times, name) for name in SITES.values())]
            for (server, verb), times in cells.items()
        ),
        texts=2,
    )


def _plot(cells: Cells) -> Plot:
    panels = {
        f"{server}: requests a second": {
            name: {verb: 1e6 / median(cells[server, verb][name]) for verb in VERBS}
            for name in SITES.values()
        }
        for server in SERVERS.values()
    }
    return Plot(bars(panels, "{:,.0f}"), "Requests a second by server and request; as in the table")
