"""Expand crop plans to single crops with their weights, for the loaders and the network."""

from __future__ import annotations

import dataclasses

from pipeline.config.crop_plan import CropPlan, Pooling
from pipeline.data.crop import Crop
from pipeline.data.preprocessing import Resize

_DENSE_ASPECT = 4 / 3
_CROP_BYTES = 64 * 2**20
"""Limit for the crops of the images decoded at once; several such batches are in memory at a time."""


@dataclasses.dataclass(frozen=True)
class PlannedCrop:
    """A crop of a plan, and its treatment by the network."""

    crop: Crop
    is_mirrored: bool
    """Whether it is also evaluated mirrored. The device does that: mirror images are not cropped again."""
    weight: float
    """Weight of its answer, and of its mirror image's, in the plan's average."""
    pooling: Pooling | None
    """Pooling of the last map if the crop is the whole image, or is not pooled as the network itself does; None for
    other crops."""


def expand(plan: CropPlan, kernel: Resize = "bilinear_antialias") -> tuple[PlannedCrop, ...]:
    """Return each crop of the plan, in the plan's order."""
    return tuple(
        PlannedCrop(
            Crop(group.resize_px, group.crop_px, position, square, kernel),
            group.mirror,
            group.weight,
            group.dense or ("sliding" if group.pooling == "sliding" else None),
        )
        for group in plan.crops
        for square, position in group.places()
    )


def count_crops(plan: CropPlan) -> int:
    """Return the number of forward passes of one image: crops and mirrored crops."""
    return sum(2 if planned.is_mirrored else 1 for planned in expand(plan))


def images_at_once(plan: CropPlan, batch: int) -> int:
    """Return how many images are decoded at once if the network sees `batch` crops at once: as many as memory allows.

    Depends on these two alone, and so do the crops that share a batch. All crops of an image are made when it is
    decoded and wait for the network together: 144 crops take 11 MB an image.
    """
    area = 0.0
    for planned in expand(plan):
        crop = planned.crop
        area += crop.resize_px**2 * _DENSE_ASPECT if crop.crop_px is None else crop.crop_px**2
    return max(1, min(batch, int(_CROP_BYTES / (3 * area))))
