"""The same images by torchvision alone: the loader that DALI is compared with, and a way to train without DALI.

Decodes on the CPU, one image a thread at a time (torchvision releases the interpreter while it decodes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torchvision.io import ImageReadMode, decode_image

from pipeline.config.operations import LoaderConfig
from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.cropping import Cropper, CropTensors, crop_in_threads, fit_crop
from pipeline.data.encoded import EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.data.verification import changed_files, require_sizes
from pipeline.ground.errors import UserError

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

    def cut(image: torch.Tensor, row: int) -> CropTensors:
        top, left = int(augmentation.tops[row]), int(augmentation.lefts[row])
        height, width = int(augmentation.heights[row]), int(augmentation.widths[row])
        crop = image[:, top : top + height, left : left + width]
        return fit_crop(crop, size_px, mirrored=bool(augmentation.mirrored[row]))

    for (images,) in _run(cut, index, positions, batch, loader):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_plan(
    index: ImageIndex, positions: Integers, crops: Sequence[Crop], batch: int, loader: LoaderConfig
) -> Iterator[tuple[CropImages, ...]]:
    """What `pipeline.data.dali.decode_plan` promises, on the CPU."""
    cutter = Cropper(crops, index.heights[positions], index.widths[positions])
    yield from _run(cutter.cut, index, positions, batch, loader)


def _run(
    cut: Callable[[torch.Tensor, int], CropTensors],
    index: ImageIndex,
    positions: Integers,
    batch: int,
    loader: LoaderConfig,
) -> Iterator[tuple[CropImages, ...]]:
    """Decode and cut rows 0, 1, ... in threads, at most `loader.prefetch` batches ahead."""
    with EncodedImages(index, positions) as images:

        def work(row: int) -> CropTensors:
            return cut(_decode(index, images, positions[row]), row)

        batches = (
            [partial(work, row) for row in range(start, min(start + batch, len(positions)))]
            for start in range(0, len(positions), batch)
        )
        yield from crop_in_threads(batches, loader.threads, loader.prefetch)


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
