"""Training crops and evaluation crops of decoded images, resized by PyTorch on the CPU, in threads."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop, resized_sizes
from pipeline.data.preprocessing import Resize, Triple
from pipeline.data.sampling import Boxes, Sampling

Integers = npt.NDArray[np.int64]
CropTensors = tuple[torch.Tensor, ...]
"""The crops of one image: (3, height, width) uint8 each."""


def fit_part(part: torch.Tensor, sampling: Sampling, row: int) -> CropTensors:
    """Resize the decoded part (3, H, W) uint8 of a training image to (3, S, S), and mirror it or not."""
    if sampling.resized is not None:
        part = _place(part, sampling.resized, row, sampling.fill)
    resized = _resize(part, sampling.size_px, sampling.size_px, sampling.kernel)
    return (resized.flip(-1) if sampling.mirrored[row] else resized,)


def cut_part(image: torch.Tensor, row: int, sampling: Sampling) -> CropTensors:
    """Cut the part of a training image out of the whole (3, H, W) uint8, and fit it."""
    boxes = sampling.decoded
    top, left = int(boxes.tops[row]), int(boxes.lefts[row])
    height, width = int(boxes.heights[row]), int(boxes.widths[row])
    return fit_part(image[:, top : top + height, left : left + width], sampling, row)


class Cropper:
    """Takes every crop from one decoding of an image, which is resized once for each scale."""

    def __init__(self, crops: Sequence[Crop], heights: Integers, widths: Integers) -> None:
        """Plan the crops of images with these heights and widths before the resize, a row each."""
        self._crops = tuple(crops)
        scales = dict.fromkeys((crop.resize_px, crop.kernel) for crop in crops)
        self._sizes = {scale: resized_sizes(heights, widths, scale[0]) for scale in scales}
        self._anchors = {
            crop: crop.anchors(*self._sizes[crop.resize_px, crop.kernel])
            for crop in crops
            if crop.region_px is not None
        }

    def crop(self, image: torch.Tensor, row: int) -> CropTensors:
        """Return the crops of the image in this row, given whole as (3, H, W) uint8."""
        resized = {
            scale: _resize(image, int(heights[row]), int(widths[row]), scale[1])
            for scale, (heights, widths) in self._sizes.items()
        }
        crops = []
        for crop in self._crops:
            cropped = resized[crop.resize_px, crop.kernel]
            if crop.region_px is not None:
                top, left = self._anchors[crop][row].tolist()
                cropped = cropped[:, top : top + crop.region_px, left : left + crop.region_px]
            if crop.region_px != crop.crop_px:
                assert crop.crop_px is not None
                cropped = _resize(cropped, crop.crop_px, crop.crop_px, crop.kernel)
            crops.append(cropped)
        return tuple(crops)


def crop_in_threads(
    batches: Iterable[Sequence[Callable[[], CropTensors]]], threads: int
) -> Iterator[tuple[CropImages, ...]]:
    """Do the work of each batch in threads, and yield its outputs stacked, in order; the next batch is begun early.

    Each output is (N, 3, S, S), channels-last in memory, or N tensors if the sizes differ.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="cropper") as pool:
        begun: collections.deque[list[Future[list[CropTensors]]]] = collections.deque()
        try:
            for batch in batches:
                # An equal part for each thread at once: handing over images one by one costs more than a small one.
                part = -(-len(batch) // threads)
                begun.append(
                    [pool.submit(_work_off, batch[start : start + part]) for start in range(0, len(batch), part)]
                )
                if len(begun) > 1:
                    yield _stack(begun.popleft())
            while begun:
                yield _stack(begun.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _work_off(part: Sequence[Callable[[], CropTensors]]) -> list[CropTensors]:
    return [work() for work in part]


def _resize(image: torch.Tensor, height: int, width: int, kernel: Resize = "bilinear_antialias") -> torch.Tensor:
    """Resize as torchvision's `resize` does, to the bit, without importing torchvision, which takes seconds."""
    if image.shape[1:] == (height, width):
        return image
    # A batch of one that is known to be channels-last: the strides of `image[None]` would not show it, and it would be
    # transposed there and back.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    mode = "bicubic" if kernel == "bicubic_antialias" else "bilinear"
    return nn.functional.interpolate(batch, size=(height, width), mode=mode, antialias=kernel != "bilinear")[0]


def _place(decoded: torch.Tensor, boxes: Boxes, row: int, fill: Triple) -> torch.Tensor:
    """Return a box of a decoded image, with a colour where it reaches beyond."""
    height, width = int(boxes.heights[row]), int(boxes.widths[row])
    top, left = int(boxes.tops[row]), int(boxes.lefts[row])
    # Channels-last in memory, as the decoders' images are.
    placed = torch.tensor(fill).round().to(torch.uint8).repeat(height, width, 1).permute(2, 0, 1)
    inner = decoded[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    top, left = max(-top, 0), max(-left, 0)
    placed[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return placed


def _stack(parts: list[Future[list[CropTensors]]]) -> tuple[CropImages, ...]:
    rows = [row for part in parts for row in part.result()]
    return tuple(_stack_images(output) for output in zip(*rows, strict=True))


def _stack_images(images: CropTensors) -> CropImages:
    if len({image.shape for image in images}) > 1:
        return images
    # In memory order, channels last; stacked in index order, they would be transposed there and back.
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
