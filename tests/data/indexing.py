"""Images for loader tests, and their index without a run of `prepare`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.index import ImageClass, ImageIndex, make_index
from pipeline.data.places import Source


def index_files(files: Sequence[Path], num_classes: int = 4, split: str = "train") -> ImageIndex:
    """The index of the files as they are now, located; labels go round the classes."""
    root = Path(os.path.commonpath([file.parent for file in files]))
    sizes = [Image.open(file).size for file in files]
    index = make_index(
        split=split,
        dataset="folder",
        classes=[ImageClass(label, str(label), str(label), None) for label in range(num_classes)],
        names=tuple(str(file.relative_to(root)) for file in files),
        labels=np.arange(len(files)) % num_classes,
        num_bytes=[file.stat().st_size for file in files],
        widths=[width for width, _ in sizes],
        heights=[height for _, height in sizes],
        sha256=[list(hashlib.sha256(file.read_bytes()).digest()) for file in files],
        flags=np.zeros(len(files)),
    )
    return dataclasses.replace(index, source=Source("folders", root))


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Colour gradients and a ripple, with the edges that a photograph has."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phase, period = generator.uniform(0, 6, 3), generator.uniform(5, 15, 3)
    channels = [110 + 60 * np.sin((x * (c + 1) + y) / period[c] + phase[c]) + 70 * (y > height / 2) for c in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, count: int) -> list[Path]:
    """JPEGs named 000.JPEG ..., from 40 to 99 px a side, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        height, width = np.random.default_rng(number).integers(40, 100, 2).tolist()
        files.append(folder / f"{number:03d}.JPEG")
        picture(height, width, number).save(files[-1], quality=90)
    return files
