"""The ways to run a training step: layout, compilation, precision and launching. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way. Its fields are keys of a recipe: of the section `execution`, and the last one of `native`."""

    precision: str
    channels_last: bool
    compile: bool
    cuda_graphs: bool = False

    def __str__(self) -> str:
        layout = "NHWC" if self.channels_last else "NCHW"
        graphs = ", CUDA graphs" if self.cuda_graphs else ""
        return f"{'compiled' if self.compile else 'eager'} {layout} {self.precision}{graphs}"

    @property
    def execution(self) -> dict[str, Any]:
        """Return the section `execution`."""
        return {"precision": self.precision, "channels_last": self.channels_last, "compile": self.compile}


def all_cells(precisions: Sequence[str], with_graphs: Sequence[str] = ()) -> list[Cell]:
    """Return every combination, for the types `with_graphs` with CUDA graphs too.

    Eager ones come before compiled ones, which take minutes to begin.
    """
    return [
        Cell(precision, channels_last, compiled, graphs)
        for compiled, graphs in itertools.product((False, True), repeat=2)
        for precision, channels_last in itertools.product(precisions, (False, True))
        if not graphs or precision in with_graphs
    ]
