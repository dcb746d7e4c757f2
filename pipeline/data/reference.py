"""The same images by torchvision alone: the test oracle of DALI, and faster for whole images on the CPU.

Decodes on the CPU, one image a thread at a time (torchvision releases the interpreter while it decodes).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torchvision.io import ImageReadMode, decode_image

from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.cropping import Cropper, CropTensors, crop_in_threads, cut_part
from pipeline.data.encoded import Bytes, EncodedImages, Reading
from pipeline.data.sampling import Sampling
from pipeline.data.verification import changed_images
from pipeline.ground.errors import UserError


def decode_crops(reading: Reading, sampling: Sampling) -> Iterator[torch.Tensor]:
    """Decode and crop as `pipeline.data.dali.decode_crops` does, on the CPU."""
    for (images,) in _run(partial(cut_part, sampling=sampling), reading):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_plan(reading: Reading, crops: Sequence[Crop]) -> Iterator[tuple[CropImages, ...]]:
    """Decode and crop as `pipeline.data.dali.decode_plan` does, on the CPU."""
    positions = reading.positions
    cropper = Cropper(crops, reading.index.heights[positions], reading.index.widths[positions])
    yield from _run(cropper.crop, reading)


def _run(crop: Callable[[torch.Tensor, int], CropTensors], reading: Reading) -> Iterator[tuple[CropImages, ...]]:
    """Decode and crop rows 0, 1, ... in threads."""

    def work(content: Bytes, row: int) -> CropTensors:
        return crop(_decode(reading, content, row), row)

    rows = itertools.count()
    with (
        EncodedImages(reading.index, reading.positions) as encoded,
        contextlib.closing(encoded.read_batches(reading)) as batches,
    ):
        works = ([partial(work, content, next(rows)) for content in contents] for contents in batches)
        yield from crop_in_threads(works, reading.loader.threads)


def _decode(reading: Reading, content: Bytes, row: int) -> torch.Tensor:
    """Return (3, H, W) uint8. Raises UserError if decoding fails and the image differs from the index."""
    try:
        encoded = torch.from_numpy(content.copy())  # PyTorch warns about read-only memory
        image: torch.Tensor = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=False)
        return image
    except RuntimeError as error:
        if changed := changed_images(reading.index, reading.positions[row : row + 1]):
            raise UserError(changed) from error
        raise
