"""Errors by the cost of a crop plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.reporting.plots import PALETTE, Plot, legend_above
from pipeline.reporting.results import ResultRow


def cost_accuracy_plots(rows: Sequence[ResultRow]) -> tuple[Plot, ...]:
    """Plot errors over the number of crops, and over the images scored in a second. Returns none for a single plan."""
    if len(rows) < 2:
        return ()
    plots = [_plot("crops", "Errors by the number of crops of an image", rows, _crops, "crops of an image")]
    if all(row.seconds > 0 for row in rows):
        plots.append(_plot("cost", "Errors by the images scored in a second", rows, _rate, "images/s, all ranks"))
    return tuple(plots)


def _plot(name: str, title: str, rows: Sequence[ResultRow], cost: Callable[[ResultRow], float], label: str) -> Plot:
    told = "; ".join(f"{row.plan} {cost(row):,.0f}, top-1 {row.top1_error_percent:.2f} %" for row in rows)
    return Plot(name, f"{title}: {told}", _errors_over(rows, cost, label))


def _crops(row: ResultRow) -> float:
    return row.num_crops


def _rate(row: ResultRow) -> float:
    return row.images / row.seconds


def _errors_over(rows: Sequence[ResultRow], cost: Callable[[ResultRow], float], label: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        places = [cost(row) for row in rows]
        for k, color, marker in ((1, PALETTE.line, "o"), (5, PALETTE.accent, "s")):
            errors = [getattr(row, f"top{k}_error_percent") for row in rows]
            if None not in errors:
                axes.plot(places, errors, marker, color=color, markersize=4, label=f"top-{k}")
        for row, place in zip(rows, places, strict=True):
            axes.annotate(
                row.plan,
                (place, row.top1_error_percent),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=PALETTE.muted,
                parse_math=False,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.25, y=0.15)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("validation error, %")
        legend_above(axes)

    return draw
