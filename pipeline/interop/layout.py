"""The layouts of files of named tensors, and how to recognise them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from pipeline.data.preprocessing import Preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop import cadene, gluon
from pipeline.interop.network import Shapes, list_some
from pipeline.models.network import HEAD

Rename = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A naming scheme for a network's tensors."""

    name: str
    telling: str
    """A tensor that only files of this layout have."""
    needed: str
    """A tensor that a network of ours must have for its names to be of this layout."""
    to_ours: Rename
    to_theirs: Rename
    preprocessing: Preprocessing | None
    """Used unless the file says otherwise; None if the recipe's applies."""


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("cadene", cadene.TELLING, cadene.TELLING, cadene.to_ours, cadene.to_theirs, cadene.PREPROCESSING),
        Layout("gluon", gluon.TELLING, gluon.NEEDED, gluon.to_ours, gluon.to_theirs, gluon.PREPROCESSING),
        # A network trained with this project takes the preprocessing of its recipe.
        Layout("ours", f"{HEAD}.weight", f"{HEAD}.weight", cadene.to_theirs, cadene.to_theirs, None),
    )
}


def choose_layout(shapes: Shapes, is_ours: bool, forced: str | None, place: str) -> Layout | None:
    """Return the layout of named tensors, or None if it is unknown.

    `is_ours` decides between this project and Cadene's port, which share their names. Raises UserError if the tensors
    are not named as in the layout `forced`.
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
