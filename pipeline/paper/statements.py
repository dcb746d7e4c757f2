"""What the paper says of its recipes and errors; its tables are in `pipeline.paper.tables`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
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
    """The paper's statement about one item of a recipe."""

    id: str
    item: str
    says: str | None = None
    """None if the paper says nothing."""
    source: str = ""
    """Its place in the paper, or the nearest passage if the paper says nothing."""
    values: tuple[Any, ...] = ()
    """What agrees with it; none if it gives nothing to compare, as "less aggressive"."""


def contest() -> dict[str, Any]:
    """Return the paper's figure of the contest entry, with its source."""
    found: dict[str, Any] = _read("contest.json")
    return found


def statements(tables: Collection[str]) -> tuple[Statement, ...]:
    """Return the statements about the networks of these tables; about the contest's if none is known."""
    content = _read("recipe.json")
    recipes = content["recipes"]
    says = next((recipe for recipe in recipes if set(recipe["tables"]) & set(tables)), recipes[0])["says"]
    found = []
    for name, item in content["items"].items():
        if (said := says.get(name, {})) is not None:  # null: this recipe has no such item
            values = tuple(tuple(value) if isinstance(value, list) else value for value in said.get("values", ()))
            found.append(Statement(name, item, said.get("says"), said.get("source", ""), values))
    return tuple(found)


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
