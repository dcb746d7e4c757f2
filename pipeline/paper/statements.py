"""What the paper says of its recipes and errors; its tables are in `pipeline.paper.tables`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline.paper.tables import Row, read_table, rows_of


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


def contest() -> dict[str, Any]:
    """Return the paper's figure of the contest entry, with its source."""
    found: dict[str, Any] = _read("contest.json")
    return found


def statements(section: str) -> tuple[Statement, ...]:
    """Return the paper's statements on "training" or "evaluation"."""
    fields = [field.name for field in dataclasses.fields(Statement)]
    return tuple(Statement(**{name: row[name] for name in fields}) for row in _read("recipe.json")[section])


def contest_network() -> str:
    """Return the name of the network whose training the statements are about."""
    return next(str(row["model"]) for row in _read("recipe.json")["training"] if row["id"] == "network")


def row_of(model: str) -> Row | None:
    """Return the row of a network in Table 2 or 3, or None if it is in neither."""
    rows = (row for name in ("table2", "table3") for row in read_table(name).rows)
    return next((row for row in rows if row.model == model), None)


def has_errors(model: str) -> bool:
    """Return whether the paper has errors of a network on ImageNet."""
    return any(table.dataset == "imagenet" for table, _ in rows_of(model))


def find_errors(model: str, trained_px: int, resize_px: int, crop_px: int) -> Errors | None:
    """Return a network's errors with one centre crop, of a shorter side of `resize_px`, trained at `trained_px`; or
    None if the paper has none. It does not say from which shorter side it took its crops of 320 px."""
    for table, row in rows_of(model):
        if table.dataset == "imagenet" and row.crop is not None and row.errors is not None:
            size = row.trained_px or row.crop[1]
            if (size, row.crop[0] or resize_px, row.crop[1]) == (trained_px, resize_px, crop_px):
                top1, top5 = (float(error) for error in row.errors if error is not None)
                at = f"trained at {size} px" if size == crop_px == 320 else f"{crop_px} px"
                return Errors(top1, top5, f"{table.source}, {at}")
    return None


def _read(name: str) -> Any:
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
