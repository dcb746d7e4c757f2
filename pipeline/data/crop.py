"""Crops in evaluation: regions of an image whose shorter side was resized. Imports no torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pipeline.config.crop_plan import Position, Square
from pipeline.data.preprocessing import Resize

Pixels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop of `crop_px` pixels a side, after the shorter side was resized to `resize_px`; or the whole image."""

    resize_px: int
    crop_px: int | None = None
    """None: the whole resized image, of any size."""
    position: Position | None = "center"
    square: Square | None = None
    """The square (its side is `resize_px`) in which the position is taken; None: the whole image."""
    kernel: Resize = "bilinear_antialias"

    @property
    def region_px(self) -> int | None:
        """Side of the region of the resized image; it is then resized to `crop_px` if that differs."""
        return self.resize_px if self.position == "whole" else self.crop_px

    def anchors(self, heights: Pixels, widths: Pixels) -> Pixels:
        """Return (N, 2) top and left of the region in *resized* images of the given sizes.

        Centres round as torchvision's `center_crop` does (halves to the even pixel); the rest is exact.
        """
        sizes_N2 = np.stack([heights, widths], axis=1)
        if self.square is None:
            return _place(sizes_N2 - self._region, self.position)
        # Only along the longer side is there any room for the square.
        room_N2 = sizes_N2 - self.resize_px
        corners_N2 = {"first": room_N2 * 0, "middle": _halves(room_N2), "last": room_N2}[self.square]
        inside_N2 = np.full_like(room_N2, self.resize_px - self._region)
        return corners_N2 + _place(inside_N2, self.position)

    @property
    def _region(self) -> int:
        assert self.region_px is not None, "the whole image has no anchors"
        return self.region_px


def _place(room_N2: Pixels, position: Position | None) -> Pixels:
    if position in ("center", "whole"):
        return _halves(room_N2)
    assert position is not None
    vertical, horizontal = position.split("_")
    return room_N2 * np.array([vertical == "bottom", horizontal == "right"], dtype=np.int64)


def _halves(room_N2: Pixels) -> Pixels:
    return np.rint(room_N2 / 2.0).astype(np.int64)


def resized_sizes(heights: Pixels, widths: Pixels, resize_px: int) -> tuple[Pixels, Pixels]:
    """Return the sizes once the shorter side is `resize_px`; the longer is rounded down, as torchvision does."""
    shorter, longer = np.minimum(heights, widths), np.maximum(heights, widths)
    resized = (resize_px * longer / shorter).astype(np.int64)
    return np.where(heights <= widths, resize_px, resized), np.where(widths <= heights, resize_px, resized)
