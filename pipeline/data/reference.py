"""The same images by torchvision: the loader that DALI is compared with, and a way to train without DALI.

Decodes on the CPU, one image a thread at a time (torchvision releases the interpreter while it decodes).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from pipeline.config.operations import LoaderConfig
from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import View
from pipeline.data.encoded import EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.data.verification import changed_files, require_sizes
from pipeline.data.window import Window, resized_sizes
from pipeline.errors import UserError
from pipeline.exchange.preprocessing import Resize

Integers = npt.NDArray[np.int64]


def decode_crops(
    index: ImageIndex,
    positions: Integers,
    augmentation: Augmentation,
    size_px: int,
    batch: int,
    loader: LoaderConfig,
) -> Iterator[torch.Tensor]:
    """What `pipeline.data.dali.decode_crops` promises, on the CPU."""

    def crop(images: EncodedImages, row: int) -> tuple[torch.Tensor, ...]:
        top, left = int(augmentation.tops[row]), int(augmentation.lefts[row])
        height, width = int(augmentation.heights[row]), int(augmentation.widths[row])
        image = _decode(index, images, positions[row])[:, top : top + height, left : left + width]
        image = _resize(image, size_px, size_px)
        return (image.flip(-1) if augmentation.mirrored[row] else image,)

    for (images,) in _run(crop, index, positions, batch, loader):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_windows(
    index: ImageIndex, positions: Integers, windows: Sequence[Window], batch: int, loader: LoaderConfig
) -> Iterator[tuple[View, ...]]:
    """What `pipeline.data.dali.decode_windows` promises, on the CPU."""
    heights, widths = index.heights[positions], index.widths[positions]
    scales = dict.fromkeys((window.resize_px, window.kernel) for window in windows)
    sizes = {scale: resized_sizes(heights, widths, scale[0]) for scale in scales}
    anchors = {
        window: window.anchors(*sizes[window.resize_px, window.kernel])
        for window in windows
        if window.cut_px is not None
    }

    def cut(images: EncodedImages, row: int) -> tuple[torch.Tensor, ...]:
        image = _decode(index, images, positions[row])
        resized = {
            scale: _resize(image, int(height[row]), int(width[row]), scale[1])
            for scale, (height, width) in sizes.items()
        }
        views = []
        for window in windows:
            view = resized[window.resize_px, window.kernel]
            if window.cut_px is not None:
                top, left = anchors[window][row].tolist()
                view = view[:, top : top + window.cut_px, left : left + window.cut_px]
            if window.cut_px != window.crop_px:
                assert window.crop_px is not None
                view = _resize(view, window.crop_px, window.crop_px, window.kernel)
            views.append(view)
        return tuple(views)

    yield from _run(cut, index, positions, batch, loader)


def _decode(index: ImageIndex, images: EncodedImages, position: int) -> torch.Tensor:
    """(3, H, W) uint8; UserError where the file is not the one that `prepare` read."""
    here = np.array([position], dtype=np.int64)
    try:
        content = images.read(position)
        require_sizes(index, here, np.array([len(content)], dtype=np.int64))
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        image: torch.Tensor = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=False)
        return image
    except (OSError, RuntimeError) as error:
        if changed := changed_files(index, here):
            raise UserError(changed) from error
        raise


def _resize(image: torch.Tensor, height: int, width: int, kernel: Resize = "bilinear_antialias") -> torch.Tensor:
    mode = v2.InterpolationMode.BICUBIC if kernel == "bicubic_antialias" else v2.InterpolationMode.BILINEAR
    resized: torch.Tensor = v2.functional.resize(
        image, [height, width], interpolation=mode, antialias=kernel != "bilinear"
    )
    return resized


def _run(
    work: Callable[[EncodedImages, int], tuple[torch.Tensor, ...]],
    index: ImageIndex,
    positions: Integers,
    batch: int,
    loader: LoaderConfig,
) -> Iterator[tuple[View, ...]]:
    """Work on rows 0, 1, ... in threads, at most `loader.prefetch` batches ahead, and stack the results in order."""
    rows = len(positions)
    with EncodedImages(index, positions) as images, ThreadPoolExecutor(loader.threads) as threads:
        begun: collections.deque[list[Future[tuple[torch.Tensor, ...]]]] = collections.deque()
        try:
            for start in range(0, rows, batch):
                begun.append([threads.submit(work, images, row) for row in range(start, min(start + batch, rows))])
                if len(begun) > loader.prefetch:
                    yield _stack(begun.popleft())
            while begun:
                yield _stack(begun.popleft())
        finally:
            threads.shutdown(cancel_futures=True)


def _stack(rows: list[Future[tuple[torch.Tensor, ...]]]) -> tuple[View, ...]:
    """One (N, 3, S, S) tensor for each output, channels-last in memory; N tensors where the sizes differ."""
    outputs = zip(*(row.result() for row in rows), strict=True)
    return tuple(_view(output) for output in outputs)


def _view(images: tuple[torch.Tensor, ...]) -> View:
    if len({image.shape for image in images}) > 1:
        return images
    return torch.stack(images).contiguous(memory_format=torch.channels_last)
