"""``python -m benchmarks``: start the servers, measure, print the figures as Markdown."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .servers import described, started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="within two minutes, and coarser")
    parser.add_argument("--hot", action="store_true", help="only the share of HOT updates")
    parser.add_argument("--pinning", choices=["own", "one", "none"], default="own")
    parser.add_argument("--fsync", action="store_true", help="let PostgreSQL wait for the disk")
    parser.add_argument("--output", type=Path, help="a file for the same figures")
    options = parser.parse_args()
    with started(options.pinning, options.fsync) as shared:
        lines = [f"- {line}" for line in described(shared)]
        lines += figures(options.short, options.hot)
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text)


def figures(short: bool, hot: bool) -> Iterator[str]:
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("migrate", verbosity=0)
    gc.freeze()  # so that a collection is short: there is one before each batch
    try:
        if hot:
            from .hot import shares

            yield from ["", *shares(rounds=10 if short else 40)]
        else:
            yield from compared(short)
    finally:
        connections["pooled"].close_pool()
        connections.close_all()


def compared(short: bool) -> Iterator[str]:
    from . import report
    from .cells import SIZES, async_cells, size_cells, sync_cells

    cells = sync_cells(["1 kB"], rounds=5) if short else sync_cells(SIZES, rounds=20)
    yield from ["", *report.ratios(cells)]
    with asyncio.Runner() as runner:
        yield from ["", *report.requests(async_cells(runner, rounds=3 if short else 15))]
    yield from ["", *report.sizes(size_cells(sessions=400 if short else 2000))]


if __name__ == "__main__":
    main()
