from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from pipeline.config.data import AugmentationConfig
from pipeline.data.augmentation import Augmentation, draw_augmentation
from pipeline.ground.seeds import derive_seed, uniform

ALL = AugmentationConfig(rotation_degrees=10.0, pixel_jitter=20.0)


def draw(
    positions: npt.ArrayLike,
    epoch: int = 0,
    seed: int = 7,
    size: tuple[int, int] = (375, 500),
    config: AugmentationConfig = ALL,
) -> Augmentation:
    positions = np.asarray(positions, dtype=np.int64)
    heights, widths = (np.full(len(positions), side) for side in size)
    return draw_augmentation(config, seed, positions, np.full(len(positions), epoch), heights, widths, 224)


def columns(augmentation: Augmentation) -> list[list[float]]:
    return [column.tolist() for column in dataclasses.astuple(augmentation) if column is not None]


def test_an_image_is_treated_alike_in_whatever_company_it_is_drawn() -> None:
    together = columns(draw(range(100)))
    backwards = [column[::-1] for column in columns(draw(range(99, -1, -1)))]
    alone = [[column[0] for column in parts] for parts in zip(*(columns(draw([n])) for n in range(100)), strict=True)]
    assert together == backwards == alone


def test_images_epochs_and_seeds_differ() -> None:
    positions = np.arange(4000)
    draws = [draw(positions), draw(positions, epoch=1), draw(positions, seed=8), draw(positions + 4000)]
    for column in ("tops", "lefts", "heights", "widths", "mirrored", "angles"):
        values = [getattr(a, column).astype(np.float64) for a in draws]
        correlation = np.corrcoef(values) - np.eye(4)
        assert np.abs(correlation).max() < 0.08, column


def test_given_the_same_draws_the_crop_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeds our draws to torchvision's own code, small and narrow images included."""
    generator = np.random.default_rng(0)
    keys, seed = np.arange(400), derive_seed(7, "augmentation")
    heights, widths = generator.integers(1, 60, 400), generator.integers(1, 60, 400)
    drawn = draw_augmentation(ALL, 7, keys, np.zeros(400, dtype=np.int64), heights, widths, 224)
    retried = 0
    for row in range(400):
        attempts: list[float] = []

        def number(draw: int, row: int = row) -> float:
            return float(uniform(seed, keys[row : row + 1], draw)[0])

        def fake_uniform(
            tensor: torch.Tensor, low: float, high: float, attempts: list[float] = attempts, row: int = row
        ) -> torch.Tensor:
            is_aspect = len(attempts) % 2
            low, high = (math.log(0.75), math.log(4 / 3)) if is_aspect else (low, high)
            attempts.append(low + (high - low) * number(len(attempts), row))
            return torch.tensor([attempts[-1]], dtype=torch.float64)

        corner = iter((20, 21))
        monkeypatch.setattr(torch.Tensor, "uniform_", fake_uniform)
        monkeypatch.setattr(
            torch,
            "randint",
            lambda low, high, size, corner=corner, row=row: torch.tensor(
                [int(low + number(next(corner), row) * (high - low))]
            ),
        )
        image = torch.empty(3, int(heights[row]), int(widths[row]))
        expected = RandomResizedCrop.get_params(image, scale=[0.08, 1.0], ratio=[0.75, 4 / 3])
        ours = [int(column[row]) for column in (drawn.tops, drawn.lefts, drawn.heights, drawn.widths)]
        assert ours == [int(value) for value in expected]
        retried += len(attempts) > 2
    assert retried > 50


@pytest.mark.parametrize("size", [(375, 500), (500, 150), (32, 32)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    count = 3000
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    expected = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [0.75, 4 / 3]) for _ in range(count)])
    drawn = draw(range(count), size=size)
    ours = np.stack([drawn.tops, drawn.lefts, drawn.heights, drawn.widths], axis=1)
    error = np.sqrt((expected.var(axis=0) + ours.var(axis=0)) / count) + 1e-9
    assert (np.abs(expected.mean(axis=0) - ours.mean(axis=0)) / error).max() < 4
    assert np.abs(expected.std(axis=0) - ours.std(axis=0)).max() < 0.06 * max(size)
    deciles = np.arange(1, 10) * 10
    apart = np.abs(np.percentile(expected, deciles, axis=0) - np.percentile(ours, deciles, axis=0))
    assert apart.max() < 0.05 * max(size)


def test_given_the_same_draws_the_crop_is_that_of_fb_resnet_torch() -> None:
    """Its RandomSizedCrop, written out: uniform aspect, sides swapped every second time, ten attempts."""
    config = AugmentationConfig(aspect_draw="uniform_swapped")
    seed, swapped, fell_back = derive_seed(7, "augmentation"), 0, 0
    for key, (height, width) in enumerate(np.random.default_rng(0).integers(1, 60, (300, 2)).tolist()):
        (drawn,) = zip(*columns(draw([key], size=(height, width), config=config))[:4], strict=True)

        def number(stream: int, key: int = key) -> float:
            return float(uniform(seed, np.array([key]), stream)[0])

        side = min(height, width)
        expected = ((height - side) // 2, (width - side) // 2, side, side)
        for attempt in range(10):
            area = height * width * (0.08 + 0.92 * number(2 * attempt))
            aspect = 0.75 + (4 / 3 - 0.75) * number(2 * attempt + 1)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if number(24 + attempt) < 0.5:
                w, h, swapped = h, w, swapped + 1
            if 0 < h <= height and 0 < w <= width:
                expected = (int(number(20) * (height - h + 1)), int(number(21) * (width - w + 1)), h, w)
                break
        else:
            fell_back += 1
        assert drawn == expected
    assert swapped > 100
    assert fell_back > 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (375, 500)])
def test_crops_lie_inside_the_image(size: tuple[int, int]) -> None:
    drawn = draw(range(500), size=size)
    for start, length, side in ((drawn.tops, drawn.heights, size[0]), (drawn.lefts, drawn.widths, size[1])):
        assert (start >= 0).all()
        assert (length >= 1).all()
        assert (start + length <= side).all()


def test_an_image_too_narrow_for_any_aspect_is_cropped_at_its_centre() -> None:
    drawn = draw(range(50), size=(10, 1000))
    assert set(drawn.widths.tolist()) <= {13}
    assert set(drawn.lefts.tolist()) == {493}


def test_area_and_aspect_stay_in_their_ranges() -> None:
    drawn = draw(range(4000), size=(1000, 1000), config=AugmentationConfig(area=(0.3, 0.5), aspect=(0.9, 1.2)))
    area, aspect = drawn.heights * drawn.widths / 1e6, drawn.widths / drawn.heights
    assert 0.299 < area.min() < 0.301
    assert 0.499 < area.max() < 0.501
    assert 0.897 < aspect.min() < 0.903
    assert 1.197 < aspect.max() < 1.203
    assert np.median(aspect) == pytest.approx(math.sqrt(0.9 * 1.2), abs=0.01)


def test_half_the_images_are_mirrored_or_none() -> None:
    assert draw(range(4000)).mirrored.mean() == pytest.approx(0.5, abs=0.03)
    assert not draw(range(100), config=AugmentationConfig(flip=False)).mirrored.any()


def test_angles_fill_their_range_or_are_zero() -> None:
    angles = draw(range(4000)).angles
    assert angles.dtype == np.float32
    assert -10 <= angles.min() < -9.9
    assert 9.9 < angles.max() <= 10
    assert abs(angles.mean()) < 0.4
    assert not draw(range(100), config=AugmentationConfig()).angles.any()
