from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import Batch
from pipeline.data.normalisation import Preprocessor, sample
from pipeline.data.sampling import sample_crops

PIXELS = InputConfig(mean=(100.0, 110.0, 120.0), std=(50.0, 25.0, 10.0))
PLAIN = AugmentationConfig()
CPU = torch.device("cpu")


def make_batch(count: int = 6, size_px: int = 16, angle: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size_px, size_px, 3), dtype=torch.uint8, generator=generator)
    return Batch(
        images=images.permute(0, 3, 1, 2),
        labels=torch.zeros(count, dtype=torch.int64),
        positions=torch.arange(count),
        affine=turning(torch.full((count,), angle)),
        size_px=size_px,
    )


def turning(angles: torch.Tensor) -> torch.Tensor:
    """The affine maps of images that are rotated after they are cropped."""
    none = np.zeros(len(angles), np.int64)
    drawn = Augmentation(none, none, none + 1, none + 1, none.astype(np.bool_), angles.numpy())
    return sample_crops(AugmentationConfig(rotation_degrees=45.0), PIXELS, drawn, 1, none + 1, none + 1).affine_N23


def rotate(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    return sample(images, turning(angles), images.shape[-1])


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_are_normalised_on_the_scale_of_bytes_in_the_layout_asked_for(channels_last: bool) -> None:
    batch = make_batch()
    before = batch.images.clone()
    preprocessor = Preprocessor(PIXELS, PLAIN, CPU, channels_last)
    expected = v2.functional.normalize(batch.images.float(), list(PIXELS.mean), list(PIXELS.std))
    for images in (preprocessor.training(batch), preprocessor.evaluation(batch.images)):
        torch.testing.assert_close(images, expected)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(batch.images, before)


@pytest.mark.parametrize("angle", [-10.0, -3.3, 0.0, 7.0, 10.0, 90.0])
@pytest.mark.parametrize("size_px", [16, 17])
def test_rotation_turns_as_torchvision_does(angle: float, size_px: int) -> None:
    images = make_batch(size_px=size_px).images.float()
    expected = v2.functional.rotate(images, angle, interpolation=v2.InterpolationMode.BILINEAR)
    torch.testing.assert_close(rotate(images, torch.full((6,), angle)), expected, atol=0.05, rtol=1e-4)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    images = make_batch().images.float()
    torch.testing.assert_close(
        rotate(images, torch.full((6,), 90.0)), torch.rot90(images, 1, (2, 3)), atol=0.01, rtol=0
    )


def test_each_image_turns_by_its_own_angle() -> None:
    images, angles = make_batch(count=3).images.float(), torch.tensor([-9.0, 0.0, 4.0])
    together = rotate(images, angles)
    for row in range(3):
        torch.testing.assert_close(together[row], rotate(images[row : row + 1], angles[row : row + 1])[0])
    torch.testing.assert_close(together[1], images[1], atol=0.01, rtol=0)


def test_training_images_turn_by_the_angles_of_their_batch() -> None:
    angles = torch.tensor([-9.0, 0.0, 4.0])
    batch = dataclasses.replace(make_batch(count=3), affine=turning(angles))
    images = Preprocessor(PIXELS, AugmentationConfig(rotation_degrees=10.0), CPU, True).training(batch)
    plain = Preprocessor(PIXELS, PLAIN, CPU, True).training(batch)
    torch.testing.assert_close(images, rotate(plain, angles), atol=1e-4, rtol=1e-4)


def test_what_comes_in_from_outside_is_the_mean_colour() -> None:
    batch = make_batch(angle=10.0)
    images = Preprocessor(PIXELS, AugmentationConfig(rotation_degrees=10.0), CPU, True).training(batch)
    assert images[:, :, 0, 0].abs().max() == 0
    assert images[:, :, 8, 8].abs().max() > 0


def test_recipe_without_rotation_leaves_the_angles_alone() -> None:
    preprocessor = Preprocessor(PIXELS, PLAIN, CPU, True)
    assert torch.equal(preprocessor.training(make_batch(angle=10.0)), preprocessor.training(make_batch()))


def test_jitter_is_uniform_in_every_pixel_and_channel() -> None:
    batch = make_batch(count=20)
    torch.manual_seed(0)
    jittered = Preprocessor(PIXELS, AugmentationConfig(pixel_jitter=20.0), CPU, True).training(batch)
    plain = Preprocessor(PIXELS, PLAIN, CPU, True).training(batch)
    noise = (jittered - plain) * torch.tensor(PIXELS.std).view(3, 1, 1)
    assert 19.9 < noise.max() < 20.001
    assert -20.001 < noise.min() < -19.9
    assert abs(noise.mean()) < 0.5
    assert noise.std().item() == pytest.approx(20 / 3**0.5, rel=0.02)
    assert (noise.view(20, 3, -1).std(dim=1) > 0).all()


def test_jitter_follows_the_seed() -> None:
    preprocessor = Preprocessor(PIXELS, AugmentationConfig(pixel_jitter=20.0), CPU, True)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(preprocessor.training(make_batch()))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_evaluation_is_not_augmented() -> None:
    everything = AugmentationConfig(pixel_jitter=20.0, rotation_degrees=10.0)
    images = make_batch().images
    augmented, plain = (Preprocessor(PIXELS, augmentation, CPU, True) for augmentation in (everything, PLAIN))
    assert torch.equal(augmented.evaluation(images), plain.evaluation(images))
