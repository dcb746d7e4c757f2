"""Loss, errors, learning rate and throughput over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from pipeline.paper.statements import Errors, find_errors
from pipeline.reporting.plots import PALETTE, Plot, legend_above
from pipeline.reporting.record import RunRecord
from pipeline.tracking.events import Event


def training_plots(record: RunRecord) -> tuple[Plot, ...]:
    """Plot loss, validation errors, learning rate and throughput over the epochs. Returns none without training."""
    if not record.train_events:
        return ()
    plots = [_curve(record, "loss", "Training loss", "training loss")]
    if record.validation_events:
        plots.append(_validation(record))
    plots.append(_curve(record, "lr", "Learning rate", "learning rate"))
    plots.append(_curve(record, "images_per_second", "Training throughput", "images/s", from_zero=True))
    return tuple(plots)


def _curve(record: RunRecord, field: str, title: str, label: str, from_zero: bool = False) -> Plot:
    def draw(axes: Axes) -> None:
        _shade_frozen(axes, record)
        for events in _by_stage(record.train_events):
            axes.plot(*_points(events, field), color=PALETTE.line, linewidth=1.4)
        axes.set_ylabel(label)
        axes.set_xlabel("epoch")
        axes.set_xlim(0, record.train_events[-1]["epoch"])
        if from_zero:
            axes.set_ylim(bottom=0)

    values = _points(record.train_events, field)[1]
    first, last, low, high = map(_digits, (values[0], values[-1], min(values), max(values)))
    told = f"{first} at first, {last} at the end, between {low} and {high}"
    return Plot(field, f"{title} by epoch: {told}", draw)


def _digits(value: float) -> str:
    """Format with three digits or more, and never as a power of ten from 1 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _validation(record: RunRecord) -> Plot:
    points = {
        k: _points(record.validation_events, field)
        for k in (1, 5)
        if (field := f"top{k}_error_percent") in record.validation_events[0]
    }

    def draw(axes: Axes) -> None:
        _shade_frozen(axes, record)
        for k, color, marker in ((1, PALETTE.line, "o"), (5, PALETTE.accent, "s")):
            if k in points:
                axes.plot(*points[k], color=color, linewidth=1.4, marker=marker, markersize=3, label=f"top-{k}")
        paper = _paper_errors(record)
        if paper is not None:
            for value in (paper.top1_percent, paper.top5_percent):
                axes.axhline(value, color=PALETTE.muted, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.plot([], [], color=PALETTE.muted, linewidth=0.9, linestyle=(0, (4, 3)), label="the paper's")
        axes.set_ylabel("validation error, %")
        axes.set_xlabel("epoch")
        axes.set_xlim(0, record.train_events[-1]["epoch"])
        axes.set_ylim(bottom=0)
        legend_above(axes)

    told = ", ".join(f"top-{k} {of[0]:.2f} % at first, {of[-1]:.2f} % at the end" for k, (_, of) in points.items())
    return Plot("validation", f"Error on the validation images by epoch: {told}", draw)


def _paper_errors(record: RunRecord) -> Errors | None:
    crop = record.config.train.validation.center_crop
    if crop is None or not record.is_comparable:
        return None
    return find_errors(record.config.model.name, record.config.train.image_size_px, *crop)


def _by_stage(events: Sequence[Event]) -> list[list[Event]]:
    """Split events by stage: no line joins two stages, since the second may begin at another run's checkpoint."""
    stages = dict.fromkeys(event["stage"] for event in events)
    return [[event for event in events if event["stage"] == stage] for stage in stages]


def _points(events: Sequence[Event], field: str) -> tuple[list[float], list[float]]:
    return [event["epoch"] for event in events], [event[field] for event in events]


def _shade_frozen(axes: Axes, record: RunRecord) -> None:
    begun = record.frozen_from_epoch
    if begun is not None:
        axes.axvspan(begun, record.train_events[-1]["epoch"], color=PALETTE.shade, linewidth=0, zorder=0)
        axes.annotate(
            "batch norms frozen",
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
            color=PALETTE.muted,
        )
