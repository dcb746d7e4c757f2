"""Decoding, cropping and resizing in one DALI graph, as images are read by a GPU.

The graph runs on the CPU as well, and there it is compared with torchvision; see `pipeline.data.dali` for why nothing
else uses it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, types

from pipeline.config.operations import LoaderConfig
from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop, resized_sizes
from pipeline.data.dali_pipeline import DECODE, decode_slices, pad_to_batches, parameters, run_pipeline
from pipeline.data.index import ImageIndex
from pipeline.interop.preprocessing import Resize

Integers = npt.NDArray[np.int64]
_KERNELS: dict[Resize, dict[str, Any]] = {
    "bilinear_antialias": {"interp_type": types.INTERP_LINEAR, "antialias": True},
    "bilinear": {"interp_type": types.INTERP_LINEAR, "antialias": False},
    "bicubic_antialias": {"interp_type": types.INTERP_CUBIC, "antialias": True},
}


def decode_crops(
    index: ImageIndex,
    positions: Integers,
    augmentation: Augmentation,
    size_px: int,
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[torch.Tensor]:
    """What `pipeline.data.dali.decode_crops` promises; `gpu` is None for a graph on the CPU."""
    mirrored_N = augmentation.mirrored.astype(np.int32)

    def graph(files: Any) -> list[Any]:
        images, mirrored = decode_slices(files, augmentation, batch, gpu, mirrored_N)
        images = fn.resize(images, size=[size_px, size_px], **_KERNELS["bilinear_antialias"])
        return [fn.flip(images, horizontal=mirrored)]

    for (images,) in run_pipeline(index, positions, graph, batch, loader, gpu):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_plan(
    index: ImageIndex,
    positions: Integers,
    crops: Sequence[Crop],
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[tuple[CropImages, ...]]:
    """What `pipeline.data.dali.decode_plan` promises; `gpu` is None for a graph on the CPU."""
    padded, batch = pad_to_batches(positions, batch)
    heights, widths = index.heights[padded], index.widths[padded]
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
            cut = [crops[number] for number in numbers if crops[number].cut_px is not None]
            columns += [crop.anchors(*sizes).astype(np.int32) for crop in cut]

    def graph(files: Any) -> list[Any]:
        images = fn.decoders.image(files, device="cpu" if gpu is None else "mixed", **DECODE)
        given = iter(parameters(columns, batch))
        made: dict[int, Any] = {}
        for (_, kernel), numbers in scales.items():
            if _is_alone(crops, numbers):
                (number,) = numbers
                part = {
                    "size": [crops[number].cut_px] * 2,
                    "roi_start": next(given),
                    "roi_end": next(given),
                }
                made[number] = _fit(fn.resize(images, **part, **_KERNELS[kernel]), crops[number])
                continue
            resized = fn.resize(images, size=next(given), **_KERNELS[kernel])
            for number in numbers:
                made[number] = _cut(resized, crops[number], given)
        return [made[number] for number in range(len(crops))]

    batches = run_pipeline(index, padded, graph, batch, loader, gpu)
    for start, images in zip(range(0, len(padded), batch), batches, strict=True):
        yield tuple(shown[: len(positions) - start] for shown in images)


def _is_alone(crops: Sequence[Crop], numbers: Sequence[int]) -> bool:
    """Whether one crop alone is cut from a scale: then no more of the image is resized than it shows."""
    return len(numbers) == 1 and crops[numbers[0]].cut_px is not None


def _sources(
    crop: Crop, heights: Integers, widths: Integers, sizes: tuple[Integers, Integers]
) -> list[npt.NDArray[Any]]:
    """Where a crop begins and ends in the images before they are resized to `sizes`: two columns of (N, 2) pixels."""
    shares_N2 = np.stack([heights, widths], axis=1) / np.stack(sizes, axis=1)
    anchors_N2 = crop.anchors(*sizes)
    assert crop.cut_px is not None, "a whole image needs no source"
    return [(ends_N2 * shares_N2).astype(np.float32) for ends_N2 in (anchors_N2, anchors_N2 + crop.cut_px)]


def _cut(resized: Any, crop: Crop, parameters: Iterator[Any]) -> Any:
    if crop.cut_px is None:
        return resized
    return _fit(fn.slice(resized, start=next(parameters), shape=[crop.cut_px] * 2, axes=[0, 1]), crop)


def _fit(images: Any, crop: Crop) -> Any:
    if crop.cut_px == crop.crop_px:
        return images
    return fn.resize(images, size=[crop.crop_px] * 2, **_KERNELS[crop.kernel])
