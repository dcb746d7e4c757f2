"""Decoding, cropping and resizing in one DALI graph, for a GPU.

The graph also runs on the CPU, where the tests compare it with torchvision; see `pipeline.data.dali` for why nothing
else uses it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, types

from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop, resized_sizes
from pipeline.data.dali_pipeline import decode_images, decode_slices, run_pipeline
from pipeline.data.encoded import Reading
from pipeline.data.preprocessing import Resize
from pipeline.data.sampling import Sampling

Integers = npt.NDArray[np.int64]
_KERNELS: dict[Resize, dict[str, Any]] = {
    "bilinear_antialias": {"interp_type": types.INTERP_LINEAR, "antialias": True},
    "bilinear": {"interp_type": types.INTERP_LINEAR, "antialias": False},
    "bicubic_antialias": {"interp_type": types.INTERP_CUBIC, "antialias": True},
}


def decode_crops(reading: Reading, sampling: Sampling, gpu: int | None) -> Iterator[torch.Tensor]:
    """Decode and crop as `pipeline.data.dali.decode_crops` does; `gpu` is None for a graph on the CPU."""
    decoded, resized = sampling.decoded, sampling.resized

    def graph(files: Any, anchors: Any, shapes: Any, mirrored: Any, *boxes: Any) -> list[Any]:
        images = decode_slices(files, anchors, shapes, reading.loader, gpu)
        if boxes:
            fill = [float(round(value)) for value in sampling.fill]
            start, shape = boxes
            images = fn.slice(images, start, shape, axes=[0, 1], out_of_bounds_policy="pad", fill_values=fill)
        images = fn.resize(images, size=[sampling.size_px] * 2, **_KERNELS[sampling.kernel])
        return [fn.flip(images, horizontal=mirrored)]

    boxes = () if resized is None else (resized.corners(), resized.sizes())
    columns = (decoded.corners(), decoded.sizes(), sampling.mirrored.astype(np.int32), *boxes)
    for (images,) in run_pipeline(reading, columns, graph, gpu):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_plan(reading: Reading, crops: Sequence[Crop], gpu: int | None) -> Iterator[tuple[CropImages, ...]]:
    """Decode and crop as `pipeline.data.dali.decode_plan` does; `gpu` is None for a graph on the CPU."""
    heights, widths = (sides[reading.positions] for sides in (reading.index.heights, reading.index.widths))
    scales: dict[tuple[int, Resize], list[int]] = {}
    for number, crop in enumerate(crops):
        scales.setdefault((crop.resize_px, crop.kernel), []).append(number)
    columns: list[npt.NDArray[Any]] = []
    for (resize_px, _), numbers in scales.items():
        sizes = resized_sizes(heights, widths, resize_px)
        if _is_alone(crops, numbers):
            columns += _sources(crops[numbers[0]], heights, widths, sizes)
        else:
            columns.append(np.stack(sizes, axis=1).astype(np.float32))
            sized = [crops[number] for number in numbers if crops[number].region_px is not None]
            columns += [crop.anchors(*sizes).astype(np.int32) for crop in sized]

    def graph(files: Any, *parameters: Any) -> list[Any]:
        images = decode_images(files, reading.loader, gpu)
        given = iter(parameters)
        made: dict[int, Any] = {}
        for (_, kernel), numbers in scales.items():
            if _is_alone(crops, numbers):
                (number,) = numbers
                part = {
                    "size": [crops[number].region_px] * 2,
                    "roi_start": next(given),
                    "roi_end": next(given),
                }
                made[number] = _resize_region(fn.resize(images, **part, **_KERNELS[kernel]), crops[number])
                continue
            resized = fn.resize(images, size=next(given), **_KERNELS[kernel])
            for number in numbers:
                made[number] = _crop(resized, crops[number], given)
        return [made[number] for number in range(len(crops))]

    yield from run_pipeline(reading, columns, graph, gpu)


def _is_alone(crops: Sequence[Crop], numbers: Sequence[int]) -> bool:
    """Return whether only one crop is taken from a scale: then only its part of the image is resized."""
    return len(numbers) == 1 and crops[numbers[0]].region_px is not None


def _sources(
    crop: Crop, heights: Integers, widths: Integers, sizes: tuple[Integers, Integers]
) -> list[npt.NDArray[Any]]:
    """Return begin and end of a crop in the images before they are resized to `sizes`: two columns of (N, 2) pixels."""
    scales_N2 = np.stack([heights, widths], axis=1) / np.stack(sizes, axis=1)
    anchors_N2 = crop.anchors(*sizes)
    assert crop.region_px is not None, "a whole image needs no source"
    return [(ends_N2 * scales_N2).astype(np.float32) for ends_N2 in (anchors_N2, anchors_N2 + crop.region_px)]


def _crop(resized: Any, crop: Crop, parameters: Iterator[Any]) -> Any:
    if crop.region_px is None:
        return resized
    return _resize_region(fn.slice(resized, start=next(parameters), shape=[crop.region_px] * 2, axes=[0, 1]), crop)


def _resize_region(images: Any, crop: Crop) -> Any:
    if crop.region_px == crop.crop_px:
        return images
    return fn.resize(images, size=[crop.crop_px] * 2, **_KERNELS[crop.kernel])
