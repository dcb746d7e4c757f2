"""The ways to run a training step: layout, compilation and arithmetic. Never imports torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way. Its fields are the keys of a recipe's section `execution`."""

    precision: str
    channels_last: bool
    compile: bool

    def __str__(self) -> str:
        layout = "NHWC" if self.channels_last else "NCHW"
        return f"{'compiled' if self.compile else 'eager'} {layout} {self.precision}"


def all_cells(precisions: Sequence[str]) -> list[Cell]:
    """Every combination: eager ones before compiled ones, which take minutes to begin."""
    return [
        Cell(precision, channels_last, compiled)
        for compiled, precision, channels_last in itertools.product((False, True), precisions, (False, True))
    ]
