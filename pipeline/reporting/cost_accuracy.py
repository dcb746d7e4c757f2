"""Errors by the cost of a crop plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.reporting.plots import Palette, Plot
from pipeline.reporting.results import ResultRow


def cost_accuracy_plots(rows: Sequence[ResultRow]) -> tuple[Plot, ...]:
    """Plot errors over the number of crops, and over the images scored in a second. Returns none for a single plan."""
    if len(rows) < 2:
        return ()
    plots = [
        Plot("crops", "Errors by the number of crops of an image", _errors_over(rows, _crops, "crops of an image"))
    ]
    if all(row.seconds > 0 for row in rows):
        plots.append(
            Plot("cost", "Errors by the images scored in a second", _errors_over(rows, _rate, "images/s, all ranks"))
        )
    return tuple(plots)


def _crops(row: ResultRow) -> float:
    return row.num_crops


def _rate(row: ResultRow) -> float:
    return row.images / row.seconds


def _errors_over(
    rows: Sequence[ResultRow], cost: Callable[[ResultRow], float], label: str
) -> Callable[[Axes, Palette], None]:
    def draw(axes: Axes, palette: Palette) -> None:
        places = [cost(row) for row in rows]
        for k, color in ((1, palette.line), (5, palette.accent)):
            errors = [getattr(row, f"top{k}_error_percent") for row in rows]
            deviations = [getattr(row, f"top{k}_standard_error") for row in rows]
            if None in errors:
                continue
            axes.errorbar(
                places, errors, yerr=deviations, color=color, fmt="o", markersize=4, elinewidth=0.9, label=f"top-{k}"
            )
        for row, place in zip(rows, places, strict=True):
            axes.annotate(
                row.plan,
                (place, row.top1_error_percent),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=palette.muted,
                parse_math=False,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.18)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("validation error, %")
        axes.legend(
            frameon=False, fontsize=9, labelcolor=palette.text, loc="lower left", bbox_to_anchor=(0, 1), ncols=2
        )

    return draw
