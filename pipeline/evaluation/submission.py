"""The contest's files: a line for each image, in the order of their names, with its five likeliest classes.

`submission-2012.txt` has five ILSVRC2012_IDs a line, surest first. `submission-2014.txt` has a box behind each, `id
xmin ymin xmax ymax`, here the whole image with its pixels counted from 1. `eval_clsloc.m` reads that form and takes a
line of the older one for a single prediction.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.ground_truth import image_number
from pipeline.data.index import ImageIndex
from pipeline.evaluation.contest import NUM_PREDICTIONS
from pipeline.evaluation.margins import blocks
from pipeline.store.file import write_bytes

SUBMISSIONS = ("submission-2012.txt", "submission-2014.txt")
_ROWS_AT_ONCE = 2048

Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ContestOrder:
    """The order of an index's images in the contest's files."""

    positions: Integers | None
    """Positions in the index in the order of the images' numbers; None if the files cannot be written."""
    missing: str | None
    """Why they cannot."""


def contest_order(index: ImageIndex, num_images: int) -> ContestOrder:
    """Return the order, without positions unless the index is the contest's split of `num_images` and complete."""
    if index.dataset != "imagenet":
        return ContestOrder(None, f"no contest files: data.dataset is {index.dataset}, not imagenet")
    numbers = [image_number(index.split, name) for name in index.names]
    if sorted(number or 0 for number in numbers) != list(range(1, num_images + 1)):
        return ContestOrder(
            None,
            f"no contest files: they need a line for each of the {num_images:,} {index.split} images, and there are "
            f"{len(index):,} in the index",
        )
    return ContestOrder(np.argsort(np.array(numbers)), None)


def top_labels(scores: npt.NDArray[np.float16], count: int = NUM_PREDICTIONS) -> Integers:
    """Return (N, count): labels of the highest scores, surest first; of equal scores the lower label first."""
    top = np.empty((len(scores), count), np.int64)
    for rows in blocks(len(scores), _ROWS_AT_ONCE):
        some = np.array(scores[rows], np.float32)
        for place in range(count):
            chosen = some.argmax(axis=1)
            top[rows, place] = chosen
            some[np.arange(len(some)), chosen] = -np.inf
    return top


def write_submissions(
    directory: Path, scores: npt.NDArray[np.float16], order: Integers, index: ImageIndex
) -> list[str]:
    """Write both files; returns their names."""
    ids = np.array([image_class.ilsvrc2012_id or 0 for image_class in index.classes])
    predictions = ids[top_labels(scores)][order]
    sizes = zip(index.widths[order].tolist(), index.heights[order].tolist(), strict=True)
    plain = [" ".join(map(str, row)) for row in predictions.tolist()]
    boxed = [
        " ".join(f"{prediction} 1 1 {width} {height}" for prediction in row)
        for row, (width, height) in zip(predictions.tolist(), sizes, strict=True)
    ]
    for name, lines in zip(SUBMISSIONS, (plain, boxed), strict=True):
        write_bytes(directory / name, ("\n".join(lines) + "\n").encode())
    return list(SUBMISSIONS)
