"""Crop plans as the loaders need them: one window after the other, and which of them are also seen mirrored."""

from __future__ import annotations

from pipeline.config.crop_plan import CropPlan
from pipeline.data.window import Window


def expand(plan: CropPlan) -> tuple[tuple[Window, ...], tuple[bool, ...]]:
    """Each window of the plan, in the plan's order, and whether it is also seen mirrored.

    Mirror images are no windows of their own: they are made on the device, from what the loader cut.
    """
    windows = []
    mirrored = []
    for view in plan.views:
        for position in view.positions:
            windows.append(Window(view.resize_px, view.crop_px, position))
            mirrored.append(view.mirror)
    return tuple(windows), tuple(mirrored)


def count_views(plan: CropPlan) -> int:
    """How often one image passes through the network: windows and mirrored windows."""
    return sum(len(view.positions) * (2 if view.mirror else 1) for view in plan.views)
