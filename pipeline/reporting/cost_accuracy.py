"""Errors by the cost of a crop plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.reporting.plots import PALETTE, Plot, legend_above
from pipeline.reporting.results import ResultRow

_LINE, _LABEL = 0.07, 0.25
"""Height of a label, as a share of the highest error, and its width, as one of the axis."""


def cost_accuracy_plots(rows: Sequence[ResultRow]) -> tuple[Plot, ...]:
    """Plot errors over the number of crops, and over the images scored in a second. Returns none for a single plan."""
    if len(rows) < 2:
        return ()
    plots = [_plot("crops", "Errors by the number of crops of an image", rows, _crops, "crops of an image")]
    if all(row.seconds > 0 for row in rows):
        plots.append(_plot("cost", "Errors by the images scored in a second", rows, _rate, "images/s, all ranks"))
    return tuple(plots)


def _plot(name: str, title: str, rows: Sequence[ResultRow], cost: Callable[[ResultRow], float], label: str) -> Plot:
    told = "; ".join(f"{row.plan} {cost(row):,.0f}, top-1 {row.top1.percent:.2f} %" for row in rows)
    return Plot(name, f"{title}: {told}", _errors_over(rows, cost, label))


def _crops(row: ResultRow) -> float:
    return row.num_crops


def _rate(row: ResultRow) -> float:
    return row.images / row.seconds


def _errors_over(rows: Sequence[ResultRow], cost: Callable[[ResultRow], float], label: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        places = [cost(row) for row in rows]
        for k, color, marker in ((1, PALETTE.line, "o"), (5, PALETTE.accent, "s")):
            errors = [error.percent for row in rows if (error := getattr(row, f"top{k}"))]
            if len(errors) == len(rows):
                axes.plot(places, errors, marker, color=color, markersize=4, label=f"top-{k}")
        labels = list(_labels(rows, places))
        for row, place, height in labels:
            axes.annotate(
                row.plan,
                (place, height),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=PALETTE.muted,
                parse_math=False,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.25)
        axes.set_ylim(0, 1.08 * max(height for _, _, height in labels) or 1)
        axes.set_xlabel(label)
        axes.set_ylabel("validation error, %")
        legend_above(axes)

    return draw


def _labels(rows: Sequence[ResultRow], places: Sequence[float]) -> Iterator[tuple[ResultRow, float, float]]:
    """Yield each row with the place of its label, above those that are too near."""
    line = _LINE * max(row.top1.percent for row in rows)
    width = _LABEL * math.log(max(places) / min(places))
    above: list[tuple[float, float]] = []
    for row, place in sorted(zip(rows, places, strict=True), key=lambda pair: pair[0].top1.percent):
        height = row.top1.percent
        for other_place, other_height in above:
            if abs(math.log(place / other_place)) <= width and height - other_height < line:
                height = other_height + line
        above.append((place, height))
        yield row, place, height
