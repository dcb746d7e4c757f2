"""Numbers and statements of the paper, "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, kept in paper.json."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors on ImageNet's 50,000 validation images."""

    top1_percent: float
    top5_percent: float
    source: str
    """The table, and the row or column of it."""


@dataclasses.dataclass(frozen=True)
class Statement:
    """The paper's statement about one item of the recipe."""

    id: str
    item: str
    says: str | None
    """None if the paper says nothing."""
    source: str
    """Its place in the paper, or the nearest passage if the paper says nothing."""


@functools.cache
def read_paper() -> dict[str, Any]:
    """Return the content of paper.json."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
    return content


def statements(section: str) -> tuple[Statement, ...]:
    """Return the paper's statements on "training" or "evaluation"."""
    return tuple(Statement(**fields) for fields in read_paper()[section])


def senet154_errors(trained_px: int, crop_px: int) -> Errors | None:
    """Return SENet-154's errors with one centre crop of that size, trained at that size, or None if the paper has
    none."""
    if (trained_px, crop_px) == (320, 320):
        row = next(row for row in read_paper()["table9"]["rows"] if row["network"].startswith("SENet-154"))
        return _errors(row["errors"], "Table 9, trained at 320 px")
    row = next(row for row in read_paper()["table8"]["rows"] if row["network"] == "SENet-154")
    if trained_px == 224 and str(crop_px) in row:
        return _errors(row[str(crop_px)], f"Table 8, {crop_px} px")
    return None


def _errors(printed: tuple[str, str], source: str) -> Errors:
    """Parse figures with as many decimals as the paper gives."""
    top1, top5 = map(float, printed)
    return Errors(top1, top5, source)
