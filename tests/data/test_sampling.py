"""Rotation before the crop, against torchvision's rotation of the whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.config.operations import LoaderConfig
from pipeline.data import reference
from pipeline.data.augmentation import draw_augmentation
from pipeline.data.batch import Batch
from pipeline.data.cropping import fit_part
from pipeline.data.encoded import Reading
from pipeline.data.normalisation import Preprocessor
from pipeline.data.sampling import Boxes, Sampling, sample_crops
from tests.data.indexing import index_files, picture

PIXELS = InputConfig(mean=(120.0, 110.0, 100.0), std=(1.0, 1.0, 1.0))
COUNT, SIZE_PX = 24, 32


def test_an_image_that_is_rotated_before_it_is_cropped_is_torchvisions(tmp_path: Path) -> None:
    """Both resample twice, in another order: smooth pictures show the geometry, to half a shade of 255 on average."""
    files = [tmp_path / f"{number:02d}.png" for number in range(COUNT)]
    for number, file in enumerate(files):
        small = picture(12, 14, number).resize((130 + number, 140 - 3 * number), resample=2)
        small.save(file)
    index = index_files(files)
    config = AugmentationConfig(rotation_degrees=30.0, rotate="before_crop", area=(0.1, 0.6))
    positions = np.arange(COUNT)
    drawn = draw_augmentation(config, 3, positions, np.zeros(COUNT, np.int64), index.heights, index.widths, SIZE_PX)
    sampling = sample_crops(config, PIXELS, drawn, SIZE_PX, index.heights, index.widths)
    (images,) = reference.decode_crops(Reading(index, positions, COUNT, LoaderConfig(), COUNT), sampling)
    batch = Batch(images, torch.zeros(COUNT), torch.from_numpy(positions), sampling.affine_N23, SIZE_PX)
    ours = Preprocessor(PIXELS, config, torch.device("cpu"), channels_last=False).training(batch)
    assert ours.shape == (COUNT, 3, SIZE_PX, SIZE_PX)
    assert 0 < drawn.mirrored.sum() < COUNT
    centre = torch.tensor(PIXELS.mean).view(3, 1, 1)
    for row, file in enumerate(files):
        image = decode_image(str(file), mode=ImageReadMode.RGB).float() - centre
        bilinear = v2.InterpolationMode.BILINEAR
        turned = v2.functional.rotate(image, float(drawn.angles[row]), interpolation=bilinear)
        crop = [int(column[row]) for column in (drawn.tops, drawn.lefts, drawn.heights, drawn.widths)]
        expected = v2.functional.resized_crop(turned, *crop, [SIZE_PX, SIZE_PX], antialias=True)
        expected = v2.functional.horizontal_flip(expected) if drawn.mirrored[row] else expected
        difference = (ours[row] - expected).abs()
        assert difference.mean() < 0.5, row
        assert difference.median() < 0.5, row


def test_without_an_angle_the_order_of_rotation_and_crop_does_not_matter() -> None:
    size = np.full(50, 300)
    drawn = draw_augmentation(AugmentationConfig(), 3, np.arange(50), np.zeros(50, np.int64), size, size, 32)
    sampled = [
        sample_crops(AugmentationConfig(rotate=rotate), PIXELS, drawn, 32, size, size)
        for rotate in ("after_crop", "before_crop")
    ]
    for one in sampled:
        assert one.resized is None
        assert one.size_px == 32
    assert torch.equal(sampled[0].affine_N23, sampled[1].affine_N23)


def test_a_part_without_a_pixel_of_its_image_has_the_mean_colour() -> None:
    far = Boxes(np.array([-50, 400]), np.array([10, -90]), np.array([20, 20]), np.array([30, 30]))
    decoded = far.clipped(np.array([100, 100]), np.array([100, 100]))
    assert (decoded.heights >= 1).all()
    assert (decoded.tops + decoded.heights <= 100).all()
    seen = far.seen_from(decoded)
    assert (seen.tops + seen.heights <= 0)[0]
    assert (seen.tops >= decoded.heights)[1]
    sampling = Sampling(
        decoded, seen, np.zeros(2, np.bool_), 8, "bilinear_antialias", PIXELS.mean, torch.zeros(2, 2, 3)
    )
    for row in range(2):
        (filled,) = fit_part(torch.zeros(3, 1, 30, dtype=torch.uint8), sampling, row)
        assert torch.equal(filled, torch.tensor([120, 110, 100], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8))
