"""The classes that are most often confused."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.evaluation.metrics import Ranking

NUM_PAIRS = 12
MOST_CLASSES = 20
"""Number of classes up to which all confusions are shown."""


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another one."""

    label: int
    predicted: int
    images: int
    of_class: int
    """Number of images in the class."""
    position: int
    """Position of the one that the network was surest of."""


def confusions(ranking: Ranking) -> tuple[Confusion, ...]:
    """Return the most frequent confusions, most images first, of equals the lower labels first."""
    wrong = np.flatnonzero((ranking.ranks > 0) & (ranking.predicted != ranking.labels))
    pairs = np.stack([ranking.labels[wrong], ranking.predicted[wrong]], axis=1)
    found, which, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    of_class = np.bincount(ranking.labels)
    result = []
    for pair in np.lexsort((found[:, 1], found[:, 0], -counts))[:NUM_PAIRS]:
        positions = wrong[which.ravel() == pair]
        surest = positions[int(np.nan_to_num(ranking.probability[positions]).argmax())]
        label, predicted = found[pair].tolist()
        result.append(Confusion(label, predicted, int(counts[pair]), int(of_class[label]), int(surest)))
    return tuple(result)


def confusion_matrix(ranking: Ranking, num_classes: int) -> list[list[int]] | None:
    """Return the number of images by true and by predicted class; None of many classes."""
    if num_classes > MOST_CLASSES:
        return None
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (ranking.labels, ranking.predicted), 1)
    rows: list[list[int]] = counts.tolist()
    return rows
