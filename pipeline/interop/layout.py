"""The layouts that a file of named tensors can have, and how it is told which one it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from pipeline.ground.errors import UserError
from pipeline.interop import cadene, gluon
from pipeline.interop.network import Shapes, list_some
from pipeline.interop.preprocessing import Preprocessing

Rename = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to name SENet-154's tensors, and what goes with files that have it."""

    name: str
    telling: str
    """A tensor that files of this layout have."""
    to_ours: Rename
    to_theirs: Rename
    preprocessing: Preprocessing | None
    """What holds unless the file says otherwise; None where the recipe has the last word."""


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("cadene", cadene.TELLING, cadene.to_ours, cadene.to_theirs, cadene.PREPROCESSING),
        Layout("gluon", gluon.TELLING, gluon.to_ours, gluon.to_theirs, gluon.PREPROCESSING),
        # The names are the same; who trained with this project has a recipe that says how images are prepared.
        Layout("ours", cadene.TELLING, cadene.to_theirs, cadene.to_theirs, None),
    )
}


def choose_layout(shapes: Shapes, is_ours: bool, forced: str | None, place: str) -> Layout | None:
    """The layout of named tensors; None where it is none of the known ones.

    `is_ours` says whose names they are that this project shares with Cadene's port. UserError where `forced` is not
    what the tensors are called.
    """
    found = next((layout for layout in LAYOUTS.values() if layout.telling in shapes), None)
    if found is not None and found.name == "cadene" and is_ours:
        found = LAYOUTS["ours"]
    if forced is None:
        return found
    layout = LAYOUTS.get(forced)
    if layout is None or layout.telling not in shapes:
        reason = f"it is a file of named tensors, no {forced} file" if layout is None else f"no tensor {layout.telling}"
        seen = f"; its names are those of --layout {found.name}" if found is not None else ""
        raise UserError(f"{place}: not of --layout {forced}: {reason}; {list_some(shapes)}{seen}")
    return layout
