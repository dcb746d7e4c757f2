"""The index of images that live in memory: an image's content is its pixels, row by row, each RGB."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

from pipeline.data.index import ImageIndex, make_index
from pipeline.data.layout import Layout


def index_pixels(layout: Layout) -> ImageIndex:
    """Return the index of a layout's images, located."""
    pixels = layout.source.pixels
    count, height, width, channels = pixels.shape
    index = make_index(
        layout.split,
        layout.dataset,
        layout.classes,
        layout.names,
        layout.labels,
        num_bytes=np.full(count, height * width * channels),
        widths=np.full(count, width),
        heights=np.full(count, height),
        sha256=_hash_rows(pixels),
        flags=np.zeros(count),
    )
    return dataclasses.replace(index, source=layout.source)


def changed_pixels(index: ImageIndex) -> list[str]:
    """Describe each image that differs from the index."""
    assert index.source is not None, "the index is not located"
    changed = (_hash_rows(index.source.pixels) != index.sha256).any(axis=1)
    return [f"{index.name(row)}: its pixels have changed (SHA-256 differs)" for row in np.flatnonzero(changed).tolist()]


def _hash_rows(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    digests = b"".join(hashlib.sha256(image.data).digest() for image in np.ascontiguousarray(pixels))
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)
