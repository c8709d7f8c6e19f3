"""The figures as one page of Markdown, with its plots beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from .measure import Times, ratio
from .plots import save

Table = list[str]
INTRODUCTION = """\
# Benchmarks

This page is the output of `python -m benchmarks`. `db`, `cached_db` and `cache` are Django's own
engines; ours has `PostgresStrategy` beside the first two and `RedisStrategy` beside the last. Above
1x ours is faster.

The sides take turns on the same servers, with the same data, and figures are medians. Both have
connections that stay, or in event loops a pool; `cached_db` and `cache` are on django-redis as it
comes, with the same parser as ours. All other settings are defaults of Django and of the servers,
but for those that are named here.
"""


@dataclass
class Plot:
    figure: Figure
    shows: str  # the text alternative


@dataclass
class Section:
    title: str
    about: str
    tables: list[Table]
    plots: dict[str, Plot] = field(default_factory=dict)  # by file name


def written(folder: Path, setup: Iterable[str], sections: Sequence[Section]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [INTRODUCTION, "\n".join(f"- {line}" for line in setup)]
    for section in sections:
        blocks += [f"## {section.title}", section.about]
        blocks += ["\n".join(table) for table in section.tables]
        for name, plot in section.plots.items():
            save(plot.figure, folder / f"{name}.svg")
            blocks.append(f"![{plot.shows}]({name}.svg)")
    page = folder / "index.md"
    page.write_text("\n\n".join(block.strip() for block in blocks) + "\n")
    return page


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> Table:
    """`texts`: how many columns, from the first, are not figures."""
    kinds = ["---"] * texts + ["---:"] * (len(head) - texts)
    return [f"| {' | '.join(cells)} |" for cells in (head, kinds, *rows)]


def times_faster(times: Times, than: str = "theirs") -> str:
    return as_ratio(ratio(times, than, "ours")) if than in times else ""


def as_ratio(value: float) -> str:
    return f"{value:.0f}x" if value >= 20 else f"{value:.2f}x"


def microseconds(times: Times, side: str) -> str:
    return f"{median(times[side]):.0f} µs" if side in times else ""


def per_second(times: Times, side: str) -> str:
    return f"{1e6 / median(times[side]):,.0f}" if side in times else ""
