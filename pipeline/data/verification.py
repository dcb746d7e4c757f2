"""Verify that the images are still those that `prepare` read."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.encoded import READERS, WAYS_ON, EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.data.pixels import changed_pixels
from pipeline.data.source import place_name
from pipeline.ground.errors import UserError

Integers = npt.NDArray[np.int64]
SAMPLE = 256
"""Number of images that are read whole at every start."""
_SHOWN = 5
_ROWS_AT_ONCE = 2048


def check_images(index: ImageIndex, is_known_place: bool, note: Callable[[str], None]) -> None:
    """Check the images at the index's place against the index.

    At a place that this run has checked before: size and SHA-256 of 256 images, others each time. At a new one, before
    that: names and sizes of all images; calls `note` with one line. Images that live in memory: all of them, always.
    Raises UserError with the number of other images, the first ones, and the ways on.
    """
    assert index.source is not None, "the index is not located"
    if index.source.read_pixels is not None:
        _refuse(index, changed_pixels(index), len(index))
        return
    if not is_known_place:
        note(
            f"{index.split}: comparing the images ({place_name(index)}) with the index: {len(index):,} names and sizes"
        )
        _refuse(index, _missing_or_resized(index), len(index))
    count = min(SAMPLE, len(index))
    sample = np.sort(np.random.default_rng().choice(len(index), count, replace=False))
    with EncodedImages(index, sample) as images, concurrent.futures.ThreadPoolExecutor(READERS) as threads:
        problems = [problem for problem in threads.map(images.problem, sample.tolist()) if problem is not None]
    _refuse(index, problems, count)


def changed_images(index: ImageIndex, positions: Integers) -> str | None:
    """Return, after a decoder failed, a message about images that differ from the index, or None if none does."""
    with EncodedImages(index, positions) as images:
        problems = [images.problem(position) for position in dict.fromkeys(positions.tolist())]
    found = [problem for problem in problems if problem is not None]
    return "\n".join([*found[:_SHOWN], WAYS_ON]) if found else None


def _missing_or_resized(index: ImageIndex) -> list[str]:
    """List the images without a file of their size. Shards were compared when the index was located."""
    assert index.source is not None
    if index.source.places is not None:
        return []

    def look(start: int) -> list[str]:
        found = []
        for position in range(start, min(start + _ROWS_AT_ONCE, len(index))):
            expected = int(index.num_bytes[position])
            try:
                size = os.stat(index.file(position)).st_size
            except OSError as error:
                found.append(f"{index.name(position)}: {error.strerror}")
                continue
            if size != expected:
                found.append(f"{index.name(position)}: {size:,} bytes, {expected:,} when prepare read it")
        return found

    with concurrent.futures.ThreadPoolExecutor(READERS) as threads:
        return [problem for part in threads.map(look, range(0, len(index), _ROWS_AT_ONCE)) for problem in part]


def _refuse(index: ImageIndex, problems: Sequence[str], looked_at: int) -> None:
    if not problems:
        return
    counts = f"{len(problems):,} of {looked_at:,} looked at are missing or others"
    lines = [f"{index.split} images: {counts} ({place_name(index)})"]
    lines += [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN:,} more")
    raise UserError("\n".join([*lines, WAYS_ON]))
