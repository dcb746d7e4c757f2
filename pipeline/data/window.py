"""Windows of the evaluation: which squares are cut from the image whose shorter side was resized. Torch-free."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pipeline.config.crop_plan import Position

Pixels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Window:
    """A square of `crop_px` pixels a side, cut at `position` after the shorter side was resized to `resize_px`."""

    resize_px: int
    crop_px: int
    position: Position

    def anchors(self, heights: Pixels, widths: Pixels) -> Pixels:
        """(N, 2) top and left of the square in *resized* images of the given sizes.

        Rounds as torchvision's `center_crop` does (halves to the even pixel); corners are exact.
        """
        room_N2 = np.stack([heights, widths], axis=1) - self.crop_px
        if self.position == "center":
            return np.rint(room_N2 / 2.0).astype(np.int64)
        vertical, horizontal = self.position.split("_")
        return room_N2 * np.array([vertical == "bottom", horizontal == "right"], dtype=np.int64)


def resized_sizes(heights: Pixels, widths: Pixels, resize_px: int) -> tuple[Pixels, Pixels]:
    """Heights and widths once the shorter side is `resize_px`; the longer is rounded down, as torchvision does."""
    shorter, longer = np.minimum(heights, widths), np.maximum(heights, widths)
    resized = (resize_px * longer / shorter).astype(np.int64)
    return np.where(heights <= widths, resize_px, resized), np.where(widths <= heights, resize_px, resized)
