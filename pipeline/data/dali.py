"""Reading and decoding by NVIDIA DALI, on a GPU or on the CPU without any; on a GPU, cropping and resizing too.

DALI carries out what it is given: the files in their order, and for each image the crop and mirroring in numbers. None
of its operators is random and it neither shuffles nor shards, so its own checkpoints are not needed: a pipeline that
starts at a later image yields exactly the rest.

On the CPU, DALI decodes and PyTorch resizes what was decoded: DALI's own resizing takes several times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn

from pipeline.config.operations import LoaderConfig
from pipeline.data import dali_graph
from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.cropping import Cropper, crop_in_threads, fit_crop
from pipeline.data.dali_pipeline import DECODE, decode_slices, pad_to_batches, run_pipeline
from pipeline.data.index import ImageIndex

Integers = npt.NDArray[np.int64]
_AHEAD = 1
"""Batches whose cutting is begun early: what lies further ahead is decoded by then, `loader.prefetch` batches of it."""


def decode_crops(
    index: ImageIndex,
    positions: Integers,
    augmentation: Augmentation,
    size_px: int,
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[torch.Tensor]:
    """Crop, resize and mirror the images at `positions`, `batch` at a time; their number is a multiple of `batch`.

    Yields (batch, 3, size_px, size_px) uint8, channels-last in memory, on GPU number `gpu` where one is given.
    """
    if gpu is not None:
        yield from dali_graph.decode_crops(index, positions, augmentation, size_px, batch, loader, gpu)
        return

    def graph(files: Any) -> list[Any]:
        return decode_slices(files, augmentation, batch, None)

    decoded = run_pipeline(index, positions, graph, batch, loader, None)
    mirrored = iter(augmentation.mirrored.tolist())
    batches = ([partial(fit_crop, crop, size_px, mirrored=next(mirrored)) for crop in crops] for (crops,) in decoded)
    for (images,) in crop_in_threads(batches, loader.threads, _AHEAD):
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
    """Decode each image once and cut every crop from it; `batch` images at a time, in the last batch what is left.

    Yields for each crop (N, 3, crop_px, crop_px) uint8, channels-last in memory; or, for a crop without a size, N
    whole images (3, H, W).
    """
    if gpu is not None:
        yield from dali_graph.decode_plan(index, positions, crops, batch, loader, gpu)
        return
    padded, batch = pad_to_batches(positions, batch)

    def graph(files: Any) -> list[Any]:
        return [fn.decoders.image(files, device="cpu", **DECODE)]

    cutter = Cropper(crops, index.heights[positions], index.widths[positions])
    rows = iter(range(len(positions)))
    decoded = run_pipeline(index, padded, graph, batch, loader, None)
    # What was added to fill the last batch has no row, and zip ends there.
    batches = (
        [partial(cutter.cut, image, row) for image, row in zip(images, rows, strict=False)] for (images,) in decoded
    )
    yield from crop_in_threads(batches, loader.threads, _AHEAD)
