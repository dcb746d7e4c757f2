"""Greedy ensemble selection (Caruana et al., ICML 2004): the members and weights that do best on some images.

A choice is never judged on the images it was made on: the validation images are split into two halves, and the choice
made on each is judged on the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.margins import DEEPEST_RANK, Floats, Integers, UndecidedClasses
from pipeline.ground.seeds import derive_seed

MAX_ROUNDS = 50
"""Limit of the additions of members, each of which can be added repeatedly."""


def stratified_halves(labels: Integers, seed: int) -> npt.NDArray[np.bool_]:
    """Return (N,): True for the second half of the images, drawn at random from each class."""
    generator = np.random.default_rng(derive_seed(seed, "selection halves"))
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    is_second = np.zeros(len(labels), np.bool_)
    # Every other image of the list that goes class by class: the odd image of a class counts for the next one.
    is_second[by_class[1::2]] = True
    return is_second


def select_greedily(undecided: UndecidedClasses) -> Floats:
    """Return (M,) weights that sum to 1: members are added one at a time with replacement, and the best round counts.

    Best has the fewest top-5 errors, the contest's measure, then the fewest top-1 errors; of equals the first.
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
