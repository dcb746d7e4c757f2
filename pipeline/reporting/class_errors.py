"""The errors of every class, read from the evaluate stage's tables."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path


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


def _read_table(path: Path) -> tuple[Mapping[str, str], ...]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return tuple(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
