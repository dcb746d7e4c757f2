"""The classes that are most often confused."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.evaluation.metrics import Ranking

NUM_PAIRS = 12


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
