"""The files that the contest took: a line for each image, in the order of their names, with its five likeliest classes.

`submission-2012.txt` has five ILSVRC2012_IDs a line, surest first. `submission-2014.txt` has a box behind each, `id
xmin ymin xmax ymax`, here the whole image with its pixels counted from 1: that is what `eval_clsloc.m` reads, which
would take a line of the older form for a single prediction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.ilsvrc import image_number
from pipeline.data.index import Dataset, ImageIndex
from pipeline.evaluation.contest import NUM_GUESSES
from pipeline.evaluation.margins import blocks
from pipeline.store.file import write_bytes

SUBMISSIONS = ("submission-2012.txt", "submission-2014.txt")
_ROWS_AT_ONCE = 2048

Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class ContestOrder:
    """How the images of an index stand in the contest's files, if they can."""

    positions: Integers | None
    """Positions in the index in the order of the images' numbers; None where `missing` says why there is no such."""
    missing: str | None


def contest_order(dataset: Dataset, split: str, num_images: int) -> ContestOrder:
    """The order for the `split`, of which the contest has `num_images`; none unless it is the contest's and whole."""
    if dataset.name != "imagenet":
        return ContestOrder(None, f"no contest files: the images are {dataset.name}, not the contest's")
    index = dataset.val if split == "val" else dataset.test
    assert index is not None, f"scores of {split} were read"
    numbers = [image_number(split, path) for path in index.paths]
    if sorted(number or 0 for number in numbers) != list(range(1, num_images + 1)):
        return ContestOrder(
            None,
            f"no contest files: they need a line for each of the {num_images:,} {split} images, and there are "
            f"{len(index):,} in the index",
        )
    return ContestOrder(np.argsort(np.array(numbers)), None)


def top_labels(scores: npt.NDArray[np.float16], count: int = NUM_GUESSES) -> Integers:
    """(N, count) labels of the highest scores, surest first; of equal scores the lower label first."""
    top = np.empty((len(scores), count), np.int64)
    for rows in blocks(len(scores), _ROWS_AT_ONCE):
        some = np.array(scores[rows], np.float32)
        for place in range(count):
            chosen = some.argmax(axis=1)
            top[rows, place] = chosen
            some[np.arange(len(some)), chosen] = -np.inf
    return top


def write_submissions(
    directory: Path, scores: npt.NDArray[np.float16], order: Integers, index: ImageIndex, ids: Sequence[int]
) -> list[str]:
    """Write both files; returns their names. `ids` are the ILSVRC2012_IDs by label."""
    predictions = np.array(ids)[top_labels(scores)][order]
    sizes = zip(index.widths[order].tolist(), index.heights[order].tolist(), strict=True)
    plain = [" ".join(map(str, row)) for row in predictions.tolist()]
    boxed = [
        " ".join(f"{prediction} 1 1 {width} {height}" for prediction in row)
        for row, (width, height) in zip(predictions.tolist(), sizes, strict=True)
    ]
    for name, lines in zip(SUBMISSIONS, (plain, boxed), strict=True):
        write_bytes(directory / name, ("\n".join(lines) + "\n").encode())
    return list(SUBMISSIONS)
