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
from pipeline.interop.preprocessing import Resize

Integers = npt.NDArray[np.int64]
CropTensors = tuple[torch.Tensor, ...]
"""What was made of one image: (3, height, width) uint8 each."""


def fit_crop(crop: torch.Tensor, size_px: int, *, mirrored: bool) -> CropTensors:
    """A training crop (3, H, W) uint8, resized to (3, size_px, size_px) and then mirrored, or not."""
    resized = _resize(crop, size_px, size_px)
    return (resized.flip(-1) if mirrored else resized,)


class Cropper:
    """CropTensors every crop from one decoding of an image, which is resized once for each scale."""

    def __init__(self, crops: Sequence[Crop], heights: Integers, widths: Integers) -> None:
        """Heights and widths are those of the images before they are resized, a row each."""
        self._crops = tuple(crops)
        scales = dict.fromkeys((crop.resize_px, crop.kernel) for crop in crops)
        self._sizes = {scale: resized_sizes(heights, widths, scale[0]) for scale in scales}
        self._anchors = {
            crop: crop.anchors(*self._sizes[crop.resize_px, crop.kernel]) for crop in crops if crop.cut_px is not None
        }

    def cut(self, image: torch.Tensor, row: int) -> CropTensors:
        """The crops of the image in this row, given whole as (3, H, W) uint8."""
        resized = {
            scale: _resize(image, int(heights[row]), int(widths[row]), scale[1])
            for scale, (heights, widths) in self._sizes.items()
        }
        crops = []
        for crop in self._crops:
            cropped = resized[crop.resize_px, crop.kernel]
            if crop.cut_px is not None:
                top, left = self._anchors[crop][row].tolist()
                cropped = cropped[:, top : top + crop.cut_px, left : left + crop.cut_px]
            if crop.cut_px != crop.crop_px:
                assert crop.crop_px is not None
                cropped = _resize(cropped, crop.crop_px, crop.crop_px, crop.kernel)
            crops.append(cropped)
        return tuple(crops)


def crop_in_threads(
    batches: Iterable[Sequence[Callable[[], CropTensors]]], threads: int, ahead: int
) -> Iterator[tuple[CropImages, ...]]:
    """Do the work of each batch in threads, and yield its outputs stacked, in order; `ahead` batches are begun early.

    Each output is (N, 3, S, S), channels-last in memory, or N tensors where the sizes differ.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="cutting") as pool:
        begun: collections.deque[list[Future[list[CropTensors]]]] = collections.deque()
        try:
            for batch in batches:
                # An equal share for each thread at once: handing over images one by one costs more than a small one.
                share = -(-len(batch) // threads)
                begun.append(
                    [pool.submit(_work_off, batch[start : start + share]) for start in range(0, len(batch), share)]
                )
                if len(begun) > ahead:
                    yield _stack(begun.popleft())
            while begun:
                yield _stack(begun.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _work_off(share: Sequence[Callable[[], CropTensors]]) -> list[CropTensors]:
    return [work() for work in share]


def _resize(image: torch.Tensor, height: int, width: int, kernel: Resize = "bilinear_antialias") -> torch.Tensor:
    """As torchvision's `resize`, to the bit, without importing torchvision, which takes seconds."""
    if image.shape[1:] == (height, width):
        return image
    # A batch of one that is known to lie channels-last: its strides would not say so if it were made of `image[None]`,
    # and it would then be transposed there and back.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    mode = "bicubic" if kernel == "bicubic_antialias" else "bilinear"
    return nn.functional.interpolate(batch, size=(height, width), mode=mode, antialias=kernel != "bilinear")[0]


def _stack(shares: list[Future[list[CropTensors]]]) -> tuple[CropImages, ...]:
    rows = [row for share in shares for row in share.result()]
    return tuple(_view(output) for output in zip(*rows, strict=True))


def _view(images: CropTensors) -> CropImages:
    if len({image.shape for image in images}) > 1:
        return images
    # As they lie in memory, channels last; stacked as they are indexed, they would be transposed there and back.
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
