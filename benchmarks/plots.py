"""Plots as SVG, to be read on light and on dark pages: no background, greys and colours between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

GREY = "#7a7f87"
# Told apart without colours too: by marker and dash, or by their order.
STYLES: dict[str, dict[str, Any]] = {
    "ours, PostgreSQL": {"color": "#2f81f7", "marker": "o"},
    "db": {"color": "#d9730d", "marker": "s", "linestyle": "--"},
    "cached_db": {"color": "#c4458f", "marker": "D", "linestyle": "-."},
    "ours, Redis": {"color": "#1a9e8f", "marker": "^"},
    "ours, cached": {"color": "#7a5cd6", "marker": "v"},
    "cache": {"color": "#a3801a", "marker": "v", "linestyle": ":"},
}
mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "the same plot has the same file",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
        "font.size": 10,
        "text.color": GREY,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "axes.titlecolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "grid.color": GREY,
        "grid.alpha": 0.25,
        "lines.linewidth": 2,
        "legend.frameon": False,
    }
)

Values = Mapping[str, Mapping[str, float]]  # by side and group
Curves = Mapping[str, Mapping[int, float]]  # by side and x


def bars(panels: Mapping[str, Values], unit: str, ratios: bool = False) -> Figure:
    """A bar for each group and side. `unit` is a format: of the figure beside each bar.

    Bars of ratios begin at 1, and twice as fast is as long as twice as slow.
    """
    groups = max(len(_groups(values)) for values in panels.values())
    sides = max(len(values) for values in panels.values())
    figure, axes = _figure(len(panels), 0.9 + groups * (0.25 + 0.21 * sides))
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left")
        names, height = _groups(values), 0.8 / len(values)
        for number, (side, found) in enumerate(values.items()):
            places = [names.index(group) + (number + 0.5) * height - 0.4 for group in found]
            color = STYLES[side]["color"]
            start = 1 if ratios else 0
            widths = [value - start for value in found.values()]
            drawn = ax.barh(places, widths, height * 0.85, start, color=color, label=side)
            ax.bar_label(drawn, [unit.format(value) for value in found.values()], padding=3)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.margins(x=0.18)
        if ratios:
            ax.set_xscale("log")
            ax.axvline(1, color=GREY, linewidth=1)
        ax.xaxis.set_visible(False)
        ax.spines["bottom"].set_visible(False)
    return _with_legend(figure, axes)


def curves(panels: Mapping[str, Curves], below: str, logarithmic: bool = False) -> Figure:
    """`below`: what the x axis, always logarithmic, shows."""
    figure, axes = _figure(len(panels), 3.6)
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left")
        for side, found in values.items():
            ax.plot(list(found), list(found.values()), label=side, **STYLES[side])
        ax.set_xscale("log", base=2)
        ticks = sorted({x for found in values.values() for x in found})
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel(below)
        if logarithmic:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_formatter(NullFormatter())
        else:
            ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter("{x:,g}")
        ax.grid(axis="y")
    return _with_legend(figure, axes)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, transparent=True, metadata={"Date": None})


def _figure(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _groups(values: Values) -> list[str]:
    return list(dict.fromkeys(group for found in values.values() for group in found))


def _with_legend(figure: Figure, axes: list[Axes]) -> Figure:
    entries = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if len(entries) > 1:
        handles, labels = list(entries.values()), list(entries)
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
