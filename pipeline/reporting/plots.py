"""The report's plots as PNG images, in colours for a light and for a dark page."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.paper.statements import Errors, find_errors
from pipeline.reporting.class_errors import ClassErrors
from pipeline.reporting.recipe import center_crop
from pipeline.reporting.record import RunRecord
from pipeline.tracking.events import Event

_DPI = 160
_WIDTH_INCHES, _HEIGHT_INCHES = 6.4, 3.4
NUM_WORST_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of a plot."""

    background: str
    text: str
    muted: str
    line: str
    accent: str
    shade: str


LIGHT = Palette("#ffffff", "#1c2128", "#6a737d", "#0b62c4", "#c2410c", "#e8edf3")
DARK = Palette("#15191f", "#dfe4ea", "#8b96a3", "#6cb2ff", "#ff9d5c", "#232a33")


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot that can be drawn in any palette."""

    name: str
    """Name of the file, without `.png`."""
    description: str
    """Alternative text."""
    draw: Callable[[Axes, Palette], None]
    height_inches: float = _HEIGHT_INCHES

    def png(self, palette: Palette) -> bytes:
        """Render the plot as a PNG file; the same data gives the same bytes."""
        figure = Figure(figsize=(_WIDTH_INCHES, self.height_inches), dpi=_DPI, layout="constrained")
        figure.set_facecolor(palette.background)
        axes = figure.add_subplot()
        _style(axes, palette)
        self.draw(axes, palette)
        content = io.BytesIO()
        FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
        return content.getvalue()


def training_plots(record: RunRecord) -> tuple[Plot, ...]:
    """Plot loss, validation errors, learning rate and throughput over the epochs. Returns none without training."""
    if not record.train_events:
        return ()
    plots = [_curve(record, "loss", "Training loss", "training loss")]
    if record.validation_events:
        plots.append(Plot("validation", "Top-1 and top-5 error on the validation images, by epoch", _errors_of(record)))
    plots.append(_curve(record, "lr", "Learning rate", "learning rate"))
    plots.append(_curve(record, "images_per_second", "Training throughput", "images/s", from_zero=True))
    return tuple(plots)


def worst_classes(classes: Sequence[ClassErrors]) -> tuple[ClassErrors, ...]:
    """Return the classes with the highest top-1 error, worst first, of equals the lower label; none without errors."""
    wrong = [row for row in classes if row.top1_errors]
    return tuple(sorted(wrong, key=lambda row: (-row.top1_error_percent, row.label))[:NUM_WORST_CLASSES])


def class_plots(classes: Sequence[ClassErrors], *, has_top5: bool = True) -> tuple[Plot, ...]:
    """Plot the worst classes' errors as bars. Returns none without errors."""
    worst = worst_classes(classes)
    if not worst:
        return ()

    def draw(axes: Axes, palette: Palette) -> None:
        names = [_shortened(row.words or row.folder) for row in worst]
        places = range(len(worst), 0, -1)
        axes.barh(places, [row.top1_error_percent for row in worst], color=palette.line, height=0.62, label="top-1")
        if has_top5:
            axes.barh(
                places, [row.top5_error_percent for row in worst], color=palette.accent, height=0.28, label="top-5"
            )
        axes.set_yticks(places, names, parse_math=False)
        axes.set_ylim(0.3, len(worst) + 0.7)
        axes.set_xlabel("error, %")
        axes.set_xlim(left=0)
        axes.grid(False, axis="y")
        axes.legend(
            frameon=False, fontsize=9, labelcolor=palette.text, loc="lower left", bbox_to_anchor=(0, 1), ncols=2
        )

    few = "the one class with errors" if len(worst) == 1 else f"the {len(worst)} classes with the highest top-1 error"
    return (
        Plot(
            "worst_classes",
            f"Top-1{' and top-5' if has_top5 else ''} error of {few}",
            draw,
            height_inches=1.1 + 0.24 * len(worst),
        ),
    )


def _curve(record: RunRecord, field: str, title: str, label: str, from_zero: bool = False) -> Plot:
    def draw(axes: Axes, palette: Palette) -> None:
        _shade_frozen(axes, palette, record)
        for events in _by_stage(record.train_events):
            axes.plot(*_points(events, field), color=palette.line, linewidth=1.4)
        axes.set_ylabel(label)
        axes.set_xlabel("epoch")
        axes.set_xlim(0, record.train_events[-1]["epoch"])
        if from_zero:
            axes.set_ylim(bottom=0)

    return Plot(field, f"{title}, by epoch", draw)


def _errors_of(record: RunRecord) -> Callable[[Axes, Palette], None]:
    def draw(axes: Axes, palette: Palette) -> None:
        _shade_frozen(axes, palette, record)
        fields = [f"top{k}_error_percent" for k in (1, 5)]
        for field, color in zip(fields, (palette.line, palette.accent), strict=True):
            if field not in record.validation_events[0]:
                continue
            points = _points(record.validation_events, field)
            axes.plot(*points, color=color, linewidth=1.4, marker="o", markersize=3, label=f"top-{field[3]}")
        paper = _paper_errors(record)
        if paper is not None:
            for value in (paper.top1_percent, paper.top5_percent):
                axes.axhline(value, color=palette.muted, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.plot([], [], color=palette.muted, linewidth=0.9, linestyle=(0, (4, 3)), label="the paper's")
        axes.set_ylabel("validation error, %")
        axes.set_xlabel("epoch")
        axes.set_xlim(0, record.train_events[-1]["epoch"])
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9, labelcolor=palette.text, loc="upper center")

    return draw


def _paper_errors(record: RunRecord) -> Errors | None:
    crop = center_crop(record.config.train.validation)
    if crop is None or not record.is_comparable:
        return None
    return find_errors(record.config.model.name, record.config.train.image_size_px, *crop)


def _by_stage(events: Sequence[Event]) -> list[list[Event]]:
    """Split events by stage: no line joins two stages, since the second may begin at another run's checkpoint."""
    stages = dict.fromkeys(event["stage"] for event in events)
    return [[event for event in events if event["stage"] == stage] for stage in stages]


def _points(events: Sequence[Event], field: str) -> tuple[list[float], list[float]]:
    return [event["epoch"] for event in events], [event[field] for event in events]


def _shade_frozen(axes: Axes, palette: Palette, record: RunRecord) -> None:
    begun = record.frozen_from_epoch
    if begun is not None:
        axes.axvspan(begun, record.train_events[-1]["epoch"], color=palette.shade, linewidth=0, zorder=0)
        axes.annotate(
            "frozen BN",
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=palette.muted,
        )


def _style(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.background)
    axes.grid(True, color=palette.shade, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette.muted, labelcolor=palette.text, labelsize=9, length=0)
    for name in ("top", "right", "left"):
        axes.spines[name].set_visible(False)
    axes.spines["bottom"].set_color(palette.muted)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(palette.text)
        label.set_fontsize(9)


def _shortened(words: str) -> str:
    first = words.split(",")[0]
    printable = "".join(char if char.isprintable() else "?" for char in first)
    return printable if len(printable) <= 28 else f"{printable[:27]}…"
