"""Crop plans as the loaders and the network need them: windows, what each counts for, and how many images at once."""

from __future__ import annotations

import dataclasses

from pipeline.config.crop_plan import CropPlan, Pooling
from pipeline.data.window import Window
from pipeline.exchange.preprocessing import Resize

_DENSE_ASPECT = 4 / 3
_WINDOW_BYTES = 64 * 2**20
"""What the windows of the images decoded at once may take; several such batches are under way at a time."""


@dataclasses.dataclass(frozen=True)
class SeenWindow:
    """A window of a plan, and how the network sees it."""

    window: Window
    is_mirrored: bool
    """Whether it is also seen mirrored. That is done on the device: mirror images are no windows of their own."""
    weight: float
    """Of the answer, and of that to the mirror image, in the plan's average."""
    dense: Pooling | None
    """How the last map is pooled where the window is the whole image; None for crops."""


def expand(plan: CropPlan, kernel: Resize = "bilinear_antialias") -> tuple[SeenWindow, ...]:
    """Each window of the plan, in the plan's order."""
    return tuple(
        SeenWindow(Window(view.resize_px, view.crop_px, position, square, kernel), view.mirror, view.weight, view.dense)
        for view in plan.views
        for square, position in view.crops()
    )


def count_views(plan: CropPlan) -> int:
    """How often one image passes through the network: windows and mirrored windows."""
    return sum(2 if seen.is_mirrored else 1 for seen in expand(plan))


def images_at_once(plan: CropPlan, batch: int) -> int:
    """How many images are decoded at once where the network sees `batch` crops at once: as many, or what memory allows.

    Depends on nothing but the two, so that which crops share a batch does not either. All windows of an image are cut
    when it is decoded and wait for the network together: of 144 crops 11 MB an image.
    """
    area = 0.0
    for seen in expand(plan):
        window = seen.window
        area += window.resize_px**2 * _DENSE_ASPECT if window.crop_px is None else window.crop_px**2
    return max(1, min(batch, int(_WINDOW_BYTES / (3 * area))))
