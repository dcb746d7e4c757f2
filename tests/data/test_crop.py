from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipeline.config.crop_plan import Position
from pipeline.data.crop import Crop, resized_sizes

SIZES = [(375, 500), (500, 375), (333, 499), (257, 256), (256, 256), (31, 97), (1, 1), (1, 7), (100, 3), (640, 427)]


@pytest.mark.parametrize("resize_px", [32, 37, 256])
def test_resized_sizes_are_torchvisions(resize_px: int) -> None:
    heights, widths = np.array(SIZES).T
    ours = np.stack(resized_sizes(heights, widths, resize_px), axis=1)
    for (height, width), size in zip(SIZES, ours.tolist(), strict=True):
        image = torch.zeros(1, height, width, dtype=torch.uint8)
        assert list(v2.functional.resize(image, [resize_px]).shape[1:]) == size


def test_the_shorter_side_is_exact_and_so_are_both_of_a_square() -> None:
    sides = np.arange(1, 2000)
    for heights, widths in ((sides, sides), (sides, sides + 1), (sides + 1, sides)):
        resized = np.stack(resized_sizes(heights, widths, 256))
        assert (resized.min(axis=0) == 256).all()
        assert (resized[:, heights == widths] == 256).all()


@pytest.mark.parametrize("crop_px", [1, 24, 31, 32])
def test_squares_lie_where_torchvision_has_them(crop_px: int) -> None:
    positions: tuple[Position, ...] = ("top_left", "top_right", "bottom_left", "bottom_right", "center")
    for height, width in ((32, 32), (32, 45), (46, 32), (33, 32), (32, 35)):
        image = torch.arange(height * width).view(1, height, width)
        for position, expected in zip(positions, v2.functional.five_crop(image, [crop_px, crop_px]), strict=True):
            anchors = Crop(32, crop_px, position).anchors(np.array([height]), np.array([width]))
            top, left = anchors[0].tolist()
            assert torch.equal(image[:, top : top + crop_px, left : left + crop_px], expected), position
