"""Errors as the contest counts them, with a rule for ties, so that they never depend on a sorting algorithm.

A class is ranked above the true one if its score is higher, or equal with a lower label. An image is correct among the
top k if fewer than k classes are ranked above the true one. A NaN ranks above every other score and below none, and so
never counts as right.

Letters in shapes: N images, K classes.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.data.index import ImageClass

if TYPE_CHECKING:
    import torch

_ROWS_AT_ONCE = 2048


def label_ranks(scores_NK: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return (N,) int64: the number of classes ranked above the true one, 0 if the first prediction is right."""
    import torch  # not at the top: scores from files are ranked without torch

    true_N1 = scores_NK.gather(1, labels_N[:, None])
    classes_K = torch.arange(scores_NK.shape[1], device=scores_NK.device)
    tied_before_NK = (scores_NK == true_N1) & (classes_K < labels_N[:, None])
    # "Not lower or equal" rather than "higher": a comparison with NaN is false, and NaN must count against the network.
    return (~(scores_NK <= true_N1) | tied_before_NK).sum(1)


def is_telling(k: int, num_classes: int) -> bool:
    """Return whether the top-k error of so many classes can be anything but 0."""
    return num_classes > k


def error_percent(errors: int, images: int) -> float:
    """Return the errors in percent of the images."""
    return 100.0 * errors / images


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Ranks and first predictions of one set of scores; a row an image, in the order of the index."""

    labels: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    """Number of classes ranked above the true one."""
    predicted: npt.NDArray[np.int64]
    """The class ranked first."""
    probability: npt.NDArray[np.float32]
    """Probability of that class, 0 to 1."""

    def errors(self, k: int) -> int:
        """Return the number of images whose true class is not among the k ranked first."""
        return int((self.ranks >= k).sum())


def rank_scores(scores: npt.NDArray[np.float16], labels: npt.NDArray[np.int64]) -> Ranking:
    """Rank (N, K) log-probabilities; of a memory-mapped file a few thousand rows are read at once."""
    ranks = np.empty(len(labels), np.int64)
    predicted = np.empty(len(labels), np.int64)
    probability = np.empty(len(labels), np.float32)
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, len(labels)))
        some = np.asarray(scores[rows], np.float32)
        true = np.take_along_axis(some, labels[rows, None], axis=1)
        tied_before = (some == true) & (np.arange(some.shape[1]) < labels[rows, None])
        ranks[rows] = (~(some <= true) | tied_before).sum(axis=1)
        # argmax takes the first of equals, which is the rule above.
        predicted[rows] = some.argmax(axis=1)
        probability[rows] = np.exp(some.max(axis=1))
    return Ranking(labels, ranks, predicted, probability)


def restricted_top1(scores: npt.NDArray[np.float16], labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return the top-1 error among the classes that the images have, and their number; nothing if they have all."""
    present = np.unique(labels)
    if len(present) == scores.shape[1]:
        return {}
    errors = rank_scores(scores[:, present], np.searchsorted(present, labels)).errors(1)
    return {"restricted_top1_error_percent": error_percent(errors, len(labels)), "present_classes": len(present)}


def class_table(ranking: Ranking, classes: Sequence[ImageClass]) -> str:
    """Return a tab-separated table: label, folder, words, images, top1_errors, top5_errors; of classes with images."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("label", "folder", "words", "images", "top1_errors", "top5_errors"))
    images = np.bincount(ranking.labels, minlength=len(classes))
    top1, top5 = (np.bincount(ranking.labels[ranking.ranks >= k], minlength=len(classes)) for k in (1, 5))
    for image_class in classes:
        label = image_class.label
        if not images[label]:
            continue
        writer.writerow((label, image_class.folder, image_class.words, images[label], top1[label], top5[label]))
    return text.getvalue()


def worst_mistakes(ranking: Ranking, count: int) -> list[dict[str, Any]]:
    """Return the `count` images that the network was surest and wrong about, surest first.

    Each has its position in the index, label, predicted (label), probability (of the predicted class) and label_rank
    (number of classes ranked above the true one).
    """
    wrong = np.flatnonzero((ranking.ranks > 0) & np.isfinite(ranking.probability))
    surest = wrong[np.lexsort((wrong, -ranking.probability[wrong]))][:count]
    return [
        {
            "position": int(position),
            "label": int(ranking.labels[position]),
            "predicted": int(ranking.predicted[position]),
            "probability": round(float(ranking.probability[position]), 6),
            "label_rank": int(ranking.ranks[position]),
        }
        for position in surest
    ]
