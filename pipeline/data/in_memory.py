"""Crops of images that live in memory, on the GPU if there is one: nothing is read or decoded in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.cropping import Cropper, CropTensors, crop_in_threads, fit_part
from pipeline.data.encoded import Reading
from pipeline.data.sampling import Sampling


def decode_crops(reading: Reading, sampling: Sampling, device: torch.device) -> Iterator[torch.Tensor]:
    """Crop as `pipeline.data.dali.decode_crops` does; a padded crop is on `device`, any other on the CPU."""

    def crop(image: torch.Tensor, row: int) -> CropTensors:
        boxes = sampling.decoded
        top, left = int(boxes.tops[row]), int(boxes.lefts[row])
        height, width = int(boxes.heights[row]), int(boxes.widths[row])
        return fit_part(image[:, top : top + height, left : left + width], sampling, row)

    for (images,) in _run(crop, reading):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_plan(reading: Reading, crops: Sequence[Crop], device: torch.device) -> Iterator[tuple[CropImages, ...]]:
    """Crop as `pipeline.data.dali.decode_plan` does; whole images are on `device`, crops on the CPU."""
    heights, widths = (sides[reading.positions] for sides in (reading.index.heights, reading.index.widths))
    sides = {(crop.resize_px, crop.region_px, crop.crop_px) for crop in crops}
    if len(sides) == 1 and all(
        side == heights.max() == heights.min() == widths.max() == widths.min() for side in sides.pop()
    ):
        pixels = _pixels(reading).to(device)
        for rows in _batches(reading):
            images = pixels[torch.from_numpy(reading.positions[rows]).to(device)].permute(0, 3, 1, 2)
            yield (images,) * len(crops)
        return
    yield from _run(Cropper(crops, heights, widths).crop, reading)


def _run(crop: Callable[[torch.Tensor, int], CropTensors], reading: Reading) -> Iterator[tuple[CropImages, ...]]:
    pixels, positions = _pixels(reading), reading.positions
    works = (
        [partial(crop, pixels[positions[row]].permute(2, 0, 1), row) for row in range(*rows.indices(len(positions)))]
        for rows in _batches(reading)
    )
    yield from crop_in_threads(works, reading.loader.threads, reading.loader.prefetch)


def _pixels(reading: Reading) -> torch.Tensor:
    assert reading.index.source is not None, "the index is not located"
    return torch.from_numpy(reading.index.source.pixels)


def _batches(reading: Reading) -> Iterator[slice]:
    for start in range(0, len(reading.positions), reading.batch):
        yield slice(start, start + reading.batch)
