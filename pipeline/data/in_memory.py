"""Crops of images that live in memory, on the GPU if there is one: nothing is read or decoded in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.cropping import Cropper, CropTensors, crop_in_threads, cut_part
from pipeline.data.encoded import Reading
from pipeline.data.sampling import Sampling


def decode_crops(reading: Reading, sampling: Sampling, device: torch.device) -> Iterator[torch.Tensor]:
    """Crop as `pipeline.data.dali.decode_crops` does; a padded crop is on `device`, any other on the CPU."""
    if sampling.padding is not None:
        yield from _padded_crops(reading, sampling, device)
        return
    for (images,) in _run(partial(cut_part, sampling=sampling), reading):
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


def _padded_crops(reading: Reading, sampling: Sampling, device: torch.device) -> Iterator[torch.Tensor]:
    """Gather the pixels of each crop. Beyond the image they are its reflection, or any that will be hidden."""
    assert sampling.resized is not None, "padded crops have places"
    images, along = _pixels(reading).to(device), torch.arange(sampling.size_px, device=device)
    # On the device at once: a copy for each batch would wait for all that the GPU has still to do.
    positions, mirrored, tops, lefts = (
        torch.from_numpy(values).to(device)
        for values in (
            reading.positions,
            sampling.mirrored,
            sampling.decoded.tops + sampling.resized.tops,
            sampling.decoded.lefts + sampling.resized.lefts,
        )
    )
    height, width = images.shape[1:3]
    pixels = images.view(-1, 3)  # a gather along one axis takes a fifth of the time
    for rows in _batches(reading):
        across = torch.where(mirrored[rows, None], along.flip(0), along)
        lines, columns = _reflected(tops[rows, None] + along, height), _reflected(lefts[rows, None] + across, width)
        places = (positions[rows, None, None] * height + lines[:, :, None]) * width + columns[:, None, :]
        yield pixels.index_select(0, places.view(-1)).view(*places.shape, 3).permute(0, 3, 1, 2)


def _reflected(places: torch.Tensor, side: int) -> torch.Tensor:
    """Mirror places beyond an edge at it; those still beyond are at the other edge."""
    last = side - 1
    return (last - (last - places.abs()).abs()).clamp(0, last)


def _run(crop: Callable[[torch.Tensor, int], CropTensors], reading: Reading) -> Iterator[tuple[CropImages, ...]]:
    pixels, positions = _pixels(reading), reading.positions
    works = (
        [partial(crop, pixels[positions[row]].permute(2, 0, 1), row) for row in range(*rows.indices(len(positions)))]
        for rows in _batches(reading)
    )
    yield from crop_in_threads(works, reading.loader.threads)


def _pixels(reading: Reading) -> torch.Tensor:
    assert reading.index.source is not None, "the index is not located"
    return torch.from_numpy(reading.index.source.pixels)


def _batches(reading: Reading) -> Iterator[slice]:
    for start in range(0, len(reading.positions), reading.batch):
        yield slice(start, start + reading.batch)
