"""``python -m benchmarks``: start the servers, measure, write one page with its plots."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .parts import PARTS
from .scale import FULL, SHORT, SMOKE, Scale
from .servers import described, started

if TYPE_CHECKING:
    from .report import Section

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"


def main() -> None:
    options = _options()
    begun = time.monotonic()
    from .report import written

    with started(options.pinning, options.fsync) as shared:
        sections = list(_measured(options.only, options.scale))
        setup = [*described(shared), f"`{' '.join(['python -m benchmarks', *sys.argv[1:]])}`"]
        page = written(_folder(options), setup, sections)
    sys.stdout.write(page.read_text())
    sys.stderr.write(f"{page}, after {time.monotonic() - begun:.0f} seconds\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--short",
        dest="scale",
        action="store_const",
        const=SHORT,
        default=FULL,
        help="within two minutes, and coarser",
    )
    much.add_argument(
        "--smoke",
        dest="scale",
        action="store_const",
        const=SMOKE,
        help="only whether it works: the figures say nothing",
    )
    parser.add_argument(
        "--only", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)} (default: all)"
    )
    parser.add_argument("--pinning", choices=["own", "one", "none"], default="own")
    parser.add_argument("--fsync", action="store_true", help="let PostgreSQL wait for the disk")
    parser.add_argument(
        "--output",
        type=Path,
        help="a folder (default: docs/benchmarks for all in full, else a temporary one)",
    )
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := set(asked) - set(PARTS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return [part for part in PARTS if part in asked]


def _folder(options: argparse.Namespace) -> Path:
    if options.output:
        return Path(options.output)
    if options.scale is FULL and options.only == PARTS:
        return DOCS
    return Path(tempfile.mkdtemp(prefix="benchmarks-"))


def _measured(parts: Iterable[str], scale: Scale) -> Iterator[Section]:
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("migrate", verbosity=0)
    modules = [import_module(f"benchmarks.parts.{part}") for part in parts]
    gc.freeze()  # so that a collection is short: there is one before each batch
    try:
        for part, module in zip(parts, modules, strict=True):
            begun = time.monotonic()
            yield module.measured(scale)
            sys.stderr.write(f"{part}: {time.monotonic() - begun:.0f} seconds\n")
    finally:
        connections["pooled"].close_pool()
        connections.close_all()


if __name__ == "__main__":
    main()
