"""Greedy ensemble selection (Caruana et al., ICML 2004): the members and weights that do best on some images.

A choice made on images is never judged on them. The validation images are cut into two halves; each half's choice is
made on it alone and judged on the other one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.margins import DEEPEST_RANK, Floats, Integers, UndecidedClasses
from pipeline.ground.seeds import derive_seed

MAX_ROUNDS = 50
"""Members are added, each as often as it helps, at most so often."""


def stratified_halves(labels: Integers, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) True for the images of the second half, drawn at random: of each class half, odd ones one more or less."""
    generator = np.random.default_rng(derive_seed(seed, "selection halves"))
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    is_second = np.zeros(len(labels), np.bool_)
    # Every other image of the list that goes class by class: an odd class hands its odd image to the next one.
    is_second[by_class[1::2]] = True
    return is_second


def select_greedily(undecided: UndecidedClasses) -> Floats:
    """(M,) weights that sum to 1: of the members, added one at a time with replacement, those of the best round.

    Best is the fewest errors among five predictions, the contest's measure, then with the first prediction; of equal rounds the
    first, of equal members the first.
    """
    num_members = undecided.margins.shape[1]
    counts = np.zeros(num_members)
    best_counts, best_errors = counts, (len(undecided.certain) + 1, 0)
    total = np.zeros(len(undecided.images))
    for _ in range(MAX_ROUNDS):
        errors = [_errors(undecided, total + undecided.margins[:, member]) for member in range(num_members)]
        chosen = min(range(num_members), key=lambda member: errors[member])
        total += undecided.margins[:, chosen]
        counts[chosen] += 1
        if errors[chosen] < best_errors:
            best_counts, best_errors = counts.copy(), errors[chosen]
    weights: Floats = best_counts / best_counts.sum()
    return weights


def _errors(undecided: UndecidedClasses, margins: Floats) -> tuple[int, int]:
    ranks = undecided.ranks_of(margins)
    return int((ranks >= DEEPEST_RANK).sum()), int((ranks >= 1).sum())
