"""Random augmentation of training images, drawn for each (run seed, epoch, image) and nothing else.

The loaders only apply it. So an image is cropped, mirrored and rotated alike by any loader, process, batch or thread,
and a resumed run needs no generator's state. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from pipeline.config.data import AugmentationConfig
from pipeline.ground.errors import UserError
from pipeline.ground.seeds import derive_seed, uniform

Integers = npt.NDArray[np.int64]

_ATTEMPTS = 10
# The numbers of an image's own random stream; the attempts at a crop take the first 2 * _ATTEMPTS, and one each from
# _SWAP.
_TOP, _LEFT, _MIRROR, _ANGLE, _SWAP = range(2 * _ATTEMPTS, 2 * _ATTEMPTS + 5)
_CUT_ROW, _CUT_COLUMN = range(_SWAP + _ATTEMPTS, _SWAP + _ATTEMPTS + 2)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The drawn augmentation of N images. Crops are in pixels of the stored image, regardless of its EXIF
    orientation, or of that image rotated about its centre."""

    tops: Integers
    lefts: Integers
    heights: Integers
    widths: Integers
    mirrored: npt.NDArray[np.bool_]
    angles: npt.NDArray[np.float32]
    """Degrees, counter-clockwise."""
    cut_N2: Integers | None = None
    """(N, 2): row and column of the centre of the Cutout in the network's input."""


def draw_augmentation(
    config: AugmentationConfig,
    seed: int,
    positions: Integers,
    epochs: Integers,
    heights: Integers,
    widths: Integers,
    size_px: int,
) -> Augmentation:
    """Draw for images at `positions` of the index, seen in `epochs`, of the given sizes in pixels; all (N,).

    `size_px` is the side of the network's input.
    """
    seed = derive_seed(seed, "augmentation")
    keys = (epochs << 32) + positions
    if config.crop == "resized":
        tops, lefts, crop_heights, crop_widths = _draw_crops(config, seed, keys, heights, widths)
    else:
        crop_heights = crop_widths = np.full_like(heights, size_px)
        tops, lefts = (
            (uniform(seed, keys, draw) * (sides + 2 * config.padding_px - size_px + 1)).astype(np.int64)
            - config.padding_px
            for draw, sides in ((_TOP, heights), (_LEFT, widths))
        )
    mirrored = uniform(seed, keys, _MIRROR) < 0.5 if config.flip else np.zeros(len(keys), dtype=np.bool_)
    angles = config.rotation_degrees * (2.0 * uniform(seed, keys, _ANGLE) - 1.0)
    cut_N2 = None
    if config.cutout_px > 0:
        centres = [uniform(seed, keys, draw) * size_px for draw in (_CUT_ROW, _CUT_COLUMN)]
        cut_N2 = np.stack(centres, axis=1).astype(np.int64)
    return Augmentation(tops, lefts, crop_heights, crop_widths, mirrored, angles.astype(np.float32), cut_N2)


def check_sizes(config: AugmentationConfig, heights: Integers, widths: Integers, size_px: int) -> None:
    """Raise UserError if one of the images is too small for a padded crop of `size_px`."""
    if config.crop != "padded":
        return
    needed, smallest = size_px - 2 * config.padding_px, min(heights.min(), widths.min())
    if config.padding == "reflect":
        needed = max(needed, config.padding_px + 1)
    if smallest < needed:
        raise UserError(
            f"augmentation.padding_px: crops of {size_px} px with a {config.padding} padding of {config.padding_px} px "
            f"need images of {needed} px a side (the smallest has {smallest}); change it, or train.image_size_px"
        )


def _draw_crops(
    config: AugmentationConfig, seed: int, keys: Integers, heights: Integers, widths: Integers
) -> tuple[Integers, Integers, Integers, Integers]:
    """Draw a random crop: up to ten attempts at area and aspect, else the largest central crop, of torchvision and of
    fb.resnet.torch."""
    swaps = config.aspect_draw == "uniform_swapped"
    crop_heights, crop_widths, tops, lefts = _central_crops((1.0, 1.0) if swaps else config.aspect, heights, widths)
    waiting = np.arange(len(keys))
    (low, high), (aspect_low, aspect_high) = config.area, config.aspect
    if not swaps:
        aspect_low, aspect_high = math.log(aspect_low), math.log(aspect_high)
    for attempt in range(_ATTEMPTS):
        share = low + (high - low) * uniform(seed, keys[waiting], 2 * attempt)
        aspect = aspect_low + (aspect_high - aspect_low) * uniform(seed, keys[waiting], 2 * attempt + 1)
        if swaps:
            aspect = np.where(uniform(seed, keys[waiting], _SWAP + attempt) < 0.5, 1 / aspect, aspect)
        else:
            aspect = np.exp(aspect)
        area = heights[waiting] * widths[waiting] * share
        width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (width > 0) & (width <= widths[waiting]) & (height > 0) & (height <= heights[waiting])
        chosen = waiting[fits]
        crop_heights[chosen], crop_widths[chosen] = height[fits], width[fits]
        tops[chosen] = uniform(seed, keys[chosen], _TOP) * (heights[chosen] - height[fits] + 1)
        lefts[chosen] = uniform(seed, keys[chosen], _LEFT) * (widths[chosen] - width[fits] + 1)
        waiting = waiting[~fits]
    return tops, lefts, crop_heights, crop_widths


def _central_crops(
    aspect: tuple[float, float], heights: Integers, widths: Integers
) -> tuple[Integers, Integers, Integers, Integers]:
    """Return the largest central crop of an allowed aspect: heights, widths, tops, lefts."""
    low, high = aspect
    crop_widths = np.where(widths / heights > high, np.maximum(np.rint(heights * high), 1), widths).astype(np.int64)
    crop_heights = np.where(widths / heights < low, np.maximum(np.rint(widths / low), 1), heights).astype(np.int64)
    return crop_heights, crop_widths, (heights - crop_heights) // 2, (widths - crop_widths) // 2
