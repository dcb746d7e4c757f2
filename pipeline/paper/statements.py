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
    fields = [field.name for field in dataclasses.fields(Statement)]
    return tuple(Statement(**{name: row[name] for name in fields}) for row in read_paper()[section])


def contest_network() -> str:
    """Return the name of the network whose training the statements are about."""
    return next(str(row["model"]) for row in read_paper()["training"] if row["id"] == "network")


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures that the paper gives of a network, as printed."""

    source: str
    gmacs: str
    """Its "GFLOPs"."""
    parameters: str | None
    """In millions."""
    errors: tuple[str, str]
    """The authors' own, top-1 and top-5 in percent."""
    crop: tuple[int, int]
    """Shorter side and centre crop of the errors."""


def figures_of(model: str) -> Figures | None:
    """Return the figures of a network in Tables 2 and 3, or None if it is in neither."""
    for table in ("table2", "table3"):
        for row in read_paper()[table]["rows"]:
            if model in row:
                own = row[model]
                return Figures(
                    read_paper()[table]["source"],
                    own["gmacs"],
                    own.get("parameters"),
                    tuple(own["errors"]),
                    tuple(row["crop"]),
                )
    return None


def has_errors(model: str) -> bool:
    """Return whether the paper has errors of a network on ImageNet."""
    return figures_of(model) is not None or any(row.get("model") == model for row in read_paper()["table8"]["rows"])


def find_errors(model: str, trained_px: int, resize_px: int, crop_px: int) -> Errors | None:
    """Return a network's errors with one centre crop, of a shorter side of `resize_px`, trained at `trained_px`; or
    None if the paper has none. It does not say from which shorter side it took its crops of 320 px."""
    if (figures := figures_of(model)) is not None:
        same = (trained_px, resize_px, crop_px) == (figures.crop[1], *figures.crop)
        return _errors(figures.errors, f"{figures.source}, {crop_px} px") if same else None
    if crop_px == 224 and resize_px != 256:
        return None
    for row in read_paper()["table9"]["rows"]:
        if row.get("model") == model and trained_px == crop_px == row["crop_px"]:
            return _errors(row["errors"], f"Table 9, trained at {trained_px} px")
    for row in read_paper()["table8"]["rows"]:
        if row.get("model") == model and trained_px == 224 and str(crop_px) in row:
            return _errors(row[str(crop_px)], f"Table 8, {crop_px} px")
    return None


def _errors(printed: tuple[str, str], source: str) -> Errors:
    """Parse figures with as many decimals as the paper gives."""
    top1, top5 = map(float, printed)
    return Errors(top1, top5, source)
