"""The part of each image that is decoded and resized, and how the network's input is sampled from it.

Without rotation, and where it comes after the crop, that part is the crop. Where the image is rotated before it is
cropped, it is an upright rectangle around the rotated crop, which may reach beyond the image: the loaders resize it,
and the device, which rotates, takes the crop from it. So an image is never rotated as a whole.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.data.augmentation import Augmentation
from pipeline.data.preprocessing import Resize, Triple

Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Boxes:
    """N upright rectangles, in pixels."""

    tops: Integers
    lefts: Integers
    heights: Integers
    widths: Integers

    def clipped(self, heights: Integers, widths: Integers) -> Boxes:
        """Return what lies inside of images of these sizes, a pixel at least."""
        tops, lefts = np.clip(self.tops, 0, heights - 1), np.clip(self.lefts, 0, widths - 1)
        bottoms = np.clip(self.tops + self.heights, tops + 1, heights)
        rights = np.clip(self.lefts + self.widths, lefts + 1, widths)
        return Boxes(tops, lefts, bottoms - tops, rights - lefts)

    def seen_from(self, others: Boxes) -> Boxes:
        """Return the same rectangles with their places counted from the corners of others."""
        return Boxes(self.tops - others.tops, self.lefts - others.lefts, self.heights, self.widths)

    def take(self, rows: slice) -> Boxes:
        """Return some of the rectangles."""
        return Boxes(self.tops[rows], self.lefts[rows], self.heights[rows], self.widths[rows])

    def mask(self, size_px: int) -> npt.NDArray[np.bool_]:
        """Return which pixels of squares of that size lie in the rectangles: (N, S, S)."""
        pixels = np.arange(size_px)
        in_rows, in_columns = (
            (pixels >= firsts[:, None]) & (pixels < (firsts + sides)[:, None])
            for firsts, sides in ((self.tops, self.heights), (self.lefts, self.widths))
        )
        return in_rows[:, :, None] & in_columns[:, None, :]

    def corners(self) -> npt.NDArray[np.int32]:
        """Return (N, 2): top and left."""
        return np.stack([self.tops, self.lefts], axis=1).astype(np.int32)

    def sizes(self) -> npt.NDArray[np.int32]:
        """Return (N, 2): height and width."""
        return np.stack([self.heights, self.widths], axis=1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Instructions to the loaders for N images: decode a part of each, resize it to a square, mirror it."""

    decoded: Boxes
    """The decoded parts, inside of the images."""
    resized: Boxes | None
    """The resized parts, counted from the corners of the decoded ones; pixels outside of those have the colour `fill`.
    None: the decoded parts themselves."""
    mirrored: npt.NDArray[np.bool_]
    size_px: int
    """Side of the square."""
    kernel: Resize
    fill: Triple
    """RGB on the 0 to 255 scale."""
    affine_N23: torch.Tensor
    """From the network's input to the square, coordinates from -1 to 1, x before y: torch's `affine_grid`."""
    padding: Literal["zero", "reflect"] | None = None
    """Fill of the border of padded crops, which are not resized: their `resized` has the square's size."""
    cut: Boxes | None = None
    """Squares of zeros in the network's input, which they may reach beyond."""

    def hidden(self, rows: slice, size_px: int) -> torch.Tensor | None:
        """Return the pixels of the network's input that are zero, (N, 1, S, S) bool. Returns None if none is."""
        # Of these rows alone: a loader plans a hundred thousand images at once, and asks for a batch at a time.
        hidden = None if self.cut is None else self.cut.take(rows).mask(size_px)
        if self.padding == "zero":
            assert self.resized is not None, "padded crops have places"
            inside, square = self.decoded.take(rows), self.resized.take(rows)
            lefts = np.where(self.mirrored[rows], size_px + square.lefts - inside.widths, -square.lefts)
            outside = ~Boxes(-square.tops, lefts, inside.heights, inside.widths).mask(size_px)
            hidden = outside if hidden is None else hidden | outside
        return None if hidden is None else torch.from_numpy(hidden[:, None])


def sample_crops(
    augmentation: AugmentationConfig,
    pixels: InputConfig,
    drawn: Augmentation,
    size_px: int,
    heights: Integers,
    widths: Integers,
) -> Sampling:
    """Return the parts for a network's input of `size_px` of images of the given sizes in pixels, (N,) each."""
    kernel, cut = augmentation.kernel, None
    if drawn.cut_N2 is not None:
        sides = np.full(len(heights), augmentation.cutout_px)
        tops, lefts = (drawn.cut_N2 - augmentation.cutout_px // 2).T
        cut = Boxes(tops, lefts, sides, sides)
    if augmentation.rotate == "before_crop" and augmentation.rotation_degrees > 0:
        outer_px = _outer_size(augmentation, size_px)
        boxes, affine = _outer_boxes(drawn, outer_px / size_px, heights, widths)
        decoded = boxes.clipped(heights, widths)
        placed = boxes.seen_from(decoded)
        return Sampling(decoded, placed, drawn.mirrored, outer_px, kernel, pixels.mean, affine, None, cut)
    radians = torch.deg2rad(torch.from_numpy(drawn.angles))
    cos, sin, zero = torch.cos(radians), torch.sin(radians), torch.zeros_like(radians)
    # Rows of an image count downwards, hence the signs.
    affine = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    crops = Boxes(drawn.tops, drawn.lefts, drawn.heights, drawn.widths)
    if augmentation.crop == "padded":
        inside = crops.clipped(heights, widths)
        placed = crops.seen_from(inside)
        return Sampling(inside, placed, drawn.mirrored, size_px, kernel, pixels.mean, affine, augmentation.padding, cut)
    return Sampling(crops, None, drawn.mirrored, size_px, kernel, pixels.mean, affine, None, cut)


def _outer_size(augmentation: AugmentationConfig, size_px: int) -> int:
    """Return the side of a square that holds a crop of `size_px` at any angle and aspect, each side scaled by its own
    factor."""
    radians = math.radians(augmentation.rotation_degrees)
    aspect = max(augmentation.aspect[1], 1 / augmentation.aspect[0])
    # Two pixels more, since the part's sides are rounded and bilinear sampling looks at a neighbour.
    return math.ceil(size_px * (math.cos(radians) + aspect * math.sin(radians))) + 2


def _outer_boxes(drawn: Augmentation, factor: float, heights: Integers, widths: Integers) -> tuple[Boxes, torch.Tensor]:
    """Return upright rectangles around the rotated crops, and the affine maps."""
    radians = np.deg2rad(drawn.angles.astype(np.float64))
    cos, sin = np.cos(radians), np.sin(radians)
    # The crop's centre from the image's, in the rotated image, and where that lies in the image itself.
    x = drawn.lefts + drawn.widths / 2 - widths / 2
    y = drawn.tops + drawn.heights / 2 - heights / 2
    centre_x, centre_y = cos * x - sin * y + widths / 2, sin * x + cos * y + heights / 2
    part_heights, part_widths = (np.rint(side * factor).astype(np.int64) for side in (drawn.heights, drawn.widths))
    tops = np.rint(centre_y - part_heights / 2).astype(np.int64)
    lefts = np.rint(centre_x - part_widths / 2).astype(np.int64)
    shift_x = 2 * (centre_x - lefts) / part_widths - 1
    shift_y = 2 * (centre_y - tops) / part_heights - 1
    # The part is mirrored before it is sampled, so x counts the other way there and in the network's input.
    sign = np.where(drawn.mirrored, -1.0, 1.0)
    rows = [
        [cos * drawn.widths / part_widths, -sign * sin * drawn.heights / part_widths, sign * shift_x],
        [sign * sin * drawn.widths / part_heights, cos * drawn.heights / part_heights, shift_y],
    ]
    affine = np.stack([np.stack(row, axis=-1) for row in rows], axis=1)
    return Boxes(tops, lefts, part_heights, part_widths), torch.from_numpy(affine).to(torch.float32)
