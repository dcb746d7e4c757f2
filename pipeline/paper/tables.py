"""The tables of the paper as data, in the folder `tables`, and the list of all its tables and figures."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

_FOLDER = Path(__file__).parent
ErrorPair = tuple[str, str | None]
"""Top-1 and top-5 error in percent, as printed."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: a network as the paper's authors measured it."""

    name: str
    model: str | None = None
    """Its name in the registry; None if it is not ours."""
    block: Mapping[str, Any] | Literal["default"] | None = "default"
    """As `model.se`, what is not at its default."""
    recipe: str | None = None
    """Name of the recipe that trains it, or of the sweep in which it is a member."""
    seeds: int = 1
    """Number of runs whose mean the figures are."""
    baseline: str | None = None
    """Name of the row that it is compared with."""
    trained_px: int | None = None
    """Side of the training images; None if it is that of the crop."""
    crop: tuple[int | None, int] | None = None
    """Shorter side, None if the paper does not say it, and centre crop of the errors."""
    original: ErrorPair | None = None
    """Errors by the network's own authors."""
    errors: ErrorPair | None = None
    gflops: str | None = None
    """Multiply-adds for one image."""
    parameters: str | None = None
    """In millions."""
    ap: str | None = None
    """Average precision of object detection, in percent."""
    ap50: str | None = None
    """The same at an overlap of 0.5."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the paper."""

    source: str
    caption: str
    rows: tuple[Row, ...]
    dataset: str | None = None
    """The images of all rows, as in `data.dataset`; None if the rows are variants that other images may compare."""
    state: str = ""
    """Why there is nothing to run."""

    @property
    def compares_blocks(self) -> bool:
        """Whether its rows differ in the block alone, so that any network and images may show the same comparison."""
        return self.dataset is None


@dataclasses.dataclass(frozen=True)
class Content:
    """A table or figure of the paper."""

    name: str
    """As on a command line: `table2`."""
    title: str
    command: str | None
    """What follows `python -m launch` to make it; None if nothing does."""
    state: str | None
    """None: as the rows of the table say."""


@functools.cache
def read_table(name: str) -> Table:
    """Return a table of the paper."""
    content = json.loads((_FOLDER / "tables" / f"{name}.json").read_text(encoding="utf-8"))
    return Table(**{**content, "rows": tuple(_row(fields) for fields in content["rows"])})


def table_names() -> tuple[str, ...]:
    """Return the names of the tables with figures, in the paper's order."""
    return tuple(each.name for each in contents() if (_FOLDER / "tables" / f"{each.name}.json").exists())


def rows_of(model: str) -> Iterator[tuple[Table, Row]]:
    """Yield the rows about a network with the block that its name stands for, and their tables, as the paper has
    them."""
    for name in table_names():
        table = read_table(name)
        yield from ((table, row) for row in table.rows if (row.model, row.block) == (model, "default"))


def contents() -> tuple[Content, ...]:
    """Return every table and figure of the paper."""
    return tuple(Content(**fields) for fields in _contents()["contents"])


def citation() -> str:
    """Return title and version of the paper."""
    return str(_contents()["paper"])


@functools.cache
def _contents() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_FOLDER / "contents.json").read_text(encoding="utf-8"))
    return found


def _row(fields: Mapping[str, Any]) -> Row:
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Row(**plain)
