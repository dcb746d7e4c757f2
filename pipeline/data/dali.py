"""Decoding by NVIDIA DALI, on a GPU or, without one, on the CPU; on a GPU, cropping and resizing too.

DALI executes given work: the bytes of the images in order, and for each the crop and mirroring in numbers. None of its
operators is random and it neither shuffles nor shards, so its own checkpoints are not needed: a pipeline that starts at
a later image yields exactly the rest.

On the CPU, DALI decodes and PyTorch resizes: DALI's own resizing takes several times as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from pipeline.data import dali_graph
from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.cropping import Cropper, crop_in_threads, fit_part
from pipeline.data.dali_pipeline import decode_images, decode_slices, run_pipeline
from pipeline.data.encoded import Reading
from pipeline.data.sampling import Sampling


def decode_crops(reading: Reading, sampling: Sampling, gpu: int | None) -> Iterator[torch.Tensor]:
    """Decode a part of each image, resize and mirror it; the last batch may be smaller.

    Yields (N, 3, S, S) uint8, S being `sampling.size_px`, channels-last in memory, on GPU number `gpu` if one is
    given.
    """
    if gpu is not None:
        yield from dali_graph.decode_crops(reading, sampling, gpu)
        return

    def graph(files: Any, anchors: Any, shapes: Any) -> list[Any]:
        return [decode_slices(files, anchors, shapes, reading.loader, None)]

    decoded = run_pipeline(reading, (sampling.decoded.corners(), sampling.decoded.sizes()), graph, None)
    rows = itertools.count()
    batches = ([partial(fit_part, part, sampling, next(rows)) for part in parts] for (parts,) in decoded)
    for (images,) in crop_in_threads(batches, reading.loader.threads):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_plan(reading: Reading, crops: Sequence[Crop], gpu: int | None) -> Iterator[tuple[CropImages, ...]]:
    """Decode each image once and take every crop from it; the last batch may be smaller.

    Yields for each crop (N, 3, crop_px, crop_px) uint8, channels-last in memory; or, for a crop without a size, N whole
    images (3, H, W).
    """
    if gpu is not None:
        yield from dali_graph.decode_plan(reading, crops, gpu)
        return

    def graph(files: Any) -> list[Any]:
        return [decode_images(files, reading.loader, None)]

    positions = reading.positions
    cropper = Cropper(crops, reading.index.heights[positions], reading.index.widths[positions])
    decoded, rows = run_pipeline(reading, (), graph, None), itertools.count()
    batches = ([partial(cropper.crop, image, next(rows)) for image in images] for (images,) in decoded)
    yield from crop_in_threads(batches, reading.loader.threads)
