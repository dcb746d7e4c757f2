"""The errors of every class, read from the evaluate stage's tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from pipeline.reporting.plots import PALETTE, Plot, legend_above

NUM_WORST_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class ClassErrors:
    """The errors of a class under one crop plan."""

    label: int
    folder: str
    words: str
    images: int
    top1_errors: int
    top5_errors: int

    @property
    def top1_error_percent(self) -> float:
        """Top-1 error in percent, 0 for a class without validation images."""
        return 100 * self.top1_errors / self.images if self.images else 0.0

    @property
    def top5_error_percent(self) -> float:
        """Top-5 error in percent, 0 for a class without validation images."""
        return 100 * self.top5_errors / self.images if self.images else 0.0


def read_class_errors(path: Path) -> tuple[ClassErrors, ...]:
    """Read the rows of a `per-class-<plan>.tsv`, in label order."""
    counts = ("label", "images", "top1_errors", "top5_errors")
    return tuple(
        ClassErrors(folder=row["folder"], words=row["words"], **{name: int(row[name]) for name in counts})
        for row in _read_table(path)
    )


def worst_classes(classes: Sequence[ClassErrors]) -> tuple[ClassErrors, ...]:
    """Return the classes with the highest top-1 error, worst first, of equals the lower label; none without errors."""
    wrong = [row for row in classes if row.top1_errors]
    return tuple(sorted(wrong, key=lambda row: (-row.top1_error_percent, row.label))[:NUM_WORST_CLASSES])


def class_plots(classes: Sequence[ClassErrors]) -> tuple[Plot, ...]:
    """Plot how many classes have which error. Returns none of so few classes that the worst are all."""
    errors = [row.top1_error_percent for row in classes if row.images]
    if len(errors) <= NUM_WORST_CLASSES:
        return ()

    def draw(axes: Axes) -> None:
        axes.hist(errors, bins=[5.0 * edge for edge in range(21)], color=PALETTE.line, rwidth=0.9)
        axes.axvline(median, color=PALETTE.accent, linewidth=1.2, linestyle=(0, (4, 3)), label="median")
        axes.set_xlabel("top-1 error of a class, %")
        axes.set_ylabel("classes")
        legend_above(axes)

    median = statistics.median(errors)
    told = f"median {median:.1f} %, from {min(errors):.1f} to {max(errors):.1f} %"
    return (Plot("classes", f"Top-1 errors of {len(errors):,} classes: {told}", draw),)


def _read_table(path: Path) -> tuple[Mapping[str, str], ...]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return tuple(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
