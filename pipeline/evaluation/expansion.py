"""Crop plans as the loaders and the network need them: crops, what each counts for, and how many images at once."""

from __future__ import annotations

import dataclasses

from pipeline.config.crop_plan import CropPlan, Pooling
from pipeline.data.crop import Crop
from pipeline.interop.preprocessing import Resize

_DENSE_ASPECT = 4 / 3
_CROP_BYTES = 64 * 2**20
"""What the crops of the images decoded at once may take; several such batches are under way at a time."""


@dataclasses.dataclass(frozen=True)
class PlannedCrop:
    """A crop of a plan, and how the network sees it."""

    crop: Crop
    is_mirrored: bool
    """Whether it is also seen mirrored. That is done on the device: mirror images are no crops of their own."""
    weight: float
    """Of the answer, and of that to the mirror image, in the plan's average."""
    dense: Pooling | None
    """How the last map is pooled where the crop is the whole image; None for crops."""


def expand(plan: CropPlan, kernel: Resize = "bilinear_antialias") -> tuple[PlannedCrop, ...]:
    """Each crop of the plan, in the plan's order."""
    return tuple(
        PlannedCrop(
            Crop(group.resize_px, group.crop_px, position, square, kernel), group.mirror, group.weight, group.dense
        )
        for group in plan.crops
        for square, position in group.places()
    )


def count_crops(plan: CropPlan) -> int:
    """How often one image passes through the network: crops and mirrored crops."""
    return sum(2 if seen.is_mirrored else 1 for seen in expand(plan))


def images_at_once(plan: CropPlan, batch: int) -> int:
    """How many images are decoded at once where the network sees `batch` crops at once: as many, or what memory allows.

    Depends on nothing but the two, so that which crops share a batch does not either. All crops of an image are cut
    when it is decoded and wait for the network together: of 144 crops 11 MB an image.
    """
    area = 0.0
    for seen in expand(plan):
        crop = seen.crop
        area += crop.resize_px**2 * _DENSE_ASPECT if crop.crop_px is None else crop.crop_px**2
    return max(1, min(batch, int(_CROP_BYTES / (3 * area))))
