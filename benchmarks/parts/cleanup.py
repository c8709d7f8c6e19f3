"""Cleanup of many expired sessions, beside live ones that are written all the time."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from threading import Barrier, Event
from time import perf_counter, sleep

from django.db import connections

from ..filling import TABLES, empty, fill, number
from ..plots import bars
from ..report import Plot, Section, as_ratio, table
from ..scale import Scale
from ..settings import NAMES
from ..sides import Side, stores
from ..site.process import environment

COMMANDS = {"ours": "clearexpiredsessions", "theirs": "clearsessions"}
WRITERS = 4
INTERVAL = 0.01  # seconds, between two writes of one of them

Command = subprocess.Popen[str]


@dataclass
class Cleanup:
    seconds: list[float] = field(default_factory=list)  # of each round
    calm: list[float] = field(default_factory=list)  # milliseconds that live writes take
    busy: list[float] = field(default_factory=list)  # and beside the cleanup


def measured(scale: Scale) -> Section:
    found = {name: Cleanup() for name in COMMANDS}
    for turn in range(scale.cleanup_rounds):
        for name in list(found)[:: -1 if turn % 2 else 1]:
            _clean(name, found[name], scale)
    rates = {name: scale.expired / median(cleanup.seconds) for name, cleanup in found.items()}
    p99 = {
        (name, when): in_99_of_100(getattr(cleanup, when))
        for name, cleanup in found.items()
        for when in ("calm", "busy")
    }
    ours, theirs = found["ours"], found["theirs"]
    rows = [
        ["rows deleted a second", as_ratio(rates["ours"] / rates["theirs"])]
        + [f"{rate:,.0f}" for rate in rates.values()],
        _milliseconds("p99 of live writes, no cleanup", p99["ours", "calm"], p99["theirs", "calm"]),
        _milliseconds("p99 of live writes beside it", p99["ours", "busy"], p99["theirs", "busy"]),
        _milliseconds("the longest, no cleanup", max(ours.calm), max(theirs.calm)),
        _milliseconds("the longest beside it", max(ours.busy), max(theirs.busy)),
    ]
    about = (
        f"{scale.expired:,} expired rows and {scale.live:,} live ones. {WRITERS} threads load,"
        f" change and save a live session every {INTERVAL * 1000:.0f} ms each, while the command"
        " runs in a process of its own, with its defaults. A write's time counts from when it was"
        " due. Redis lets sessions expire by itself."
    )
    head = ["", "ours better by", *(f"`{command}`" for command in COMMANDS.values())]
    return Section("Cleanup", about, [table(head, rows)], {"cleanup": _plot(rates, p99)})


def _clean(name: str, cleanup: Cleanup, scale: Scale) -> None:
    empty()
    with stores("default") as sides, beside(COMMANDS[name], "PostgreSQL", name) as command:
        keys = fill(name, scale.live, scale.expired)
        with writing(sides[name], keys) as written:
            sleep(scale.calm_seconds)
            while not written:
                sleep(INTERVAL)
            begun = perf_counter()
            cleanup.seconds.append(told(command, "now"))
    for done, milliseconds in written:
        (cleanup.calm if done < begun else cleanup.busy).append(milliseconds)
    left = number("count(*)", TABLES[name])
    assert left == scale.live, f"{name}: {left:,.0f} rows are left"


@contextmanager
def beside(name: str, store: str, side: str) -> Iterator[Command]:
    """A command of Django's in a process of its own, ready to begin."""
    program = [sys.executable, "-m", "benchmarks.site.command", name]
    with subprocess.Popen(
        program,
        env=environment(store, side, "default"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as command:
        told(command, "get ready")
        yield command


def told(command: Command, word: str) -> float:
    """The seconds until it has answered."""
    assert command.stdin
    assert command.stdout
    begun = perf_counter()
    command.stdin.write(f"{word}\n")
    if not command.stdout.readline():
        raise RuntimeError("The command ended before its time.")
    return perf_counter() - begun


@contextmanager
def writing(side: Side, keys: list[str]) -> Iterator[list[tuple[float, float]]]:
    """What is written meanwhile: when it was done, and how many milliseconds after it was due."""
    together, ended = Barrier(WRITERS + 1), Event()
    written: list[tuple[float, float]] = []

    def write(place: int) -> None:
        side.load(keys[0])  # and so connect
        together.wait()
        due = perf_counter() + place * INTERVAL / WRITERS
        last = False
        while not last:
            last = ended.is_set()  # one more: a short cleanup may end before a write is due
            sleep(max(0, due - perf_counter()))
            side.save(random.choice(keys))
            done = perf_counter()
            written.append((done, (done - due) * 1000))
            due += INTERVAL
        connections.close_all()

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, place) for place in range(WRITERS)]
        together.wait()
        try:
            yield written
        finally:
            ended.set()
    for writer in writers:
        writer.result()


def in_99_of_100(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def _milliseconds(what: str, ours: float, theirs: float) -> list[str]:
    return [what, as_ratio(theirs / ours), f"{ours:.1f} ms", f"{theirs:.1f} ms"]


def _plot(rates: dict[str, float], p99: dict[tuple[str, str], float]) -> Plot:
    moments = {"calm": "no cleanup", "busy": "beside it"}
    panels = {
        "Rows deleted a second": {
            NAMES["PostgreSQL", name]: {COMMANDS[name]: rate} for name, rate in rates.items()
        },
        "p99 of live writes, ms": {
            NAMES["PostgreSQL", name]: {words: p99[name, when] for when, words in moments.items()}
            for name in COMMANDS
        },
    }
    return Plot(
        bars(panels, "{:,.1f}"), "Rows deleted a second, and the 99th percentile of live writes"
    )
