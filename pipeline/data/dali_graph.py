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
from pipeline.data.batch import View
from pipeline.data.dali_pipeline import DECODE, decode_slices, pad_to_batches, parameters, run_pipeline
from pipeline.data.index import ImageIndex
from pipeline.data.window import Window, resized_sizes
from pipeline.exchange.preprocessing import Resize

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


def decode_windows(
    index: ImageIndex,
    positions: Integers,
    windows: Sequence[Window],
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[tuple[View, ...]]:
    """What `pipeline.data.dali.decode_windows` promises; `gpu` is None for a graph on the CPU."""
    padded, batch = pad_to_batches(positions, batch)
    heights, widths = index.heights[padded], index.widths[padded]
    scales: dict[tuple[int, Resize], list[int]] = {}
    for number, window in enumerate(windows):
        scales.setdefault((window.resize_px, window.kernel), []).append(number)
    columns: list[npt.NDArray[Any]] = []
    for (resize_px, _), numbers in scales.items():
        sizes = resized_sizes(heights, widths, resize_px)
        if _is_alone(windows, numbers):
            columns += _sources(windows[numbers[0]], heights, widths, sizes)
        else:
            columns.append(np.stack(sizes, axis=1).astype(np.float32))
            cut = [windows[number] for number in numbers if windows[number].cut_px is not None]
            columns += [window.anchors(*sizes).astype(np.int32) for window in cut]

    def graph(files: Any) -> list[Any]:
        images = fn.decoders.image(files, device="cpu" if gpu is None else "mixed", **DECODE)
        given = iter(parameters(columns, batch))
        views: dict[int, Any] = {}
        for (_, kernel), numbers in scales.items():
            if _is_alone(windows, numbers):
                (number,) = numbers
                part = {
                    "size": [windows[number].cut_px] * 2,
                    "roi_start": next(given),
                    "roi_end": next(given),
                }
                views[number] = _fit(fn.resize(images, **part, **_KERNELS[kernel]), windows[number])
                continue
            resized = fn.resize(images, size=next(given), **_KERNELS[kernel])
            for number in numbers:
                views[number] = _cut(resized, windows[number], given)
        return [views[number] for number in range(len(windows))]

    batches = run_pipeline(index, padded, graph, batch, loader, gpu)
    for start, views in zip(range(0, len(padded), batch), batches, strict=True):
        yield tuple(view[: len(positions) - start] for view in views)


def _is_alone(windows: Sequence[Window], numbers: Sequence[int]) -> bool:
    """Whether one window alone is cut from a scale: then no more of the image is resized than it shows."""
    return len(numbers) == 1 and windows[numbers[0]].cut_px is not None


def _sources(
    window: Window, heights: Integers, widths: Integers, sizes: tuple[Integers, Integers]
) -> list[npt.NDArray[Any]]:
    """Where a window begins and ends in the images before they are resized to `sizes`: two columns of (N, 2) pixels."""
    shares_N2 = np.stack([heights, widths], axis=1) / np.stack(sizes, axis=1)
    anchors_N2 = window.anchors(*sizes)
    assert window.cut_px is not None, "a whole image needs no source"
    return [(ends_N2 * shares_N2).astype(np.float32) for ends_N2 in (anchors_N2, anchors_N2 + window.cut_px)]


def _cut(resized: Any, window: Window, parameters: Iterator[Any]) -> Any:
    if window.cut_px is None:
        return resized
    return _fit(fn.slice(resized, start=next(parameters), shape=[window.cut_px] * 2, axes=[0, 1]), window)


def _fit(crop: Any, window: Window) -> Any:
    if window.cut_px == window.crop_px:
        return crop
    return fn.resize(crop, size=[window.crop_px] * 2, **_KERNELS[window.kernel])
