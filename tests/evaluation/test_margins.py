"""Errors of an ensemble from its undecided, against fusing all scores and ranking them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config.crop_plan import Averaging
from pipeline.evaluation import margins as margins_module
from pipeline.evaluation.margins import DEEPEST_RANK, find_undecided
from pipeline.evaluation.metrics import rank_scores
from pipeline.ground.errors import UserError
from tests.evaluation.ensemble_members import make_scores

NUM_IMAGES, NUM_CLASSES, NUM_MEMBERS = 600, 12, 3
LABELS = np.random.default_rng(1).integers(0, NUM_CLASSES, NUM_IMAGES)
MEMBERS = [make_scores(LABELS, NUM_CLASSES, seed, skill) for seed, skill in ((1, 3.0), (2, 4.0), (3, 1.0))]
WEIGHTS = [np.array(weights) for weights in ((1.0, 1, 1), (0.2, 3, 0.1), (0, 0, 1.0), (0, 2.5, 1.0))]


def brute_force(weights_NM: npt.NDArray[np.float64], averaging: Averaging) -> npt.NDArray[np.int64]:
    """Ranks by the definition: the weighted mean of everything, and a count."""
    exact = [np.asarray(member, np.float64) for member in MEMBERS]
    scores = [np.exp(member) if averaging == "probabilities" else member for member in exact]
    fused = sum(weights[:, None] * member for weights, member in zip(weights_NM.T, scores, strict=True))
    true = fused[np.arange(NUM_IMAGES), LABELS][:, None]
    ahead = (fused > true) | ((fused == true) & (np.arange(NUM_CLASSES) < LABELS[:, None]))
    return np.minimum(ahead.sum(1), DEEPEST_RANK)


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_ranks_are_those_of_the_weighted_mean(weights: npt.NDArray[np.float64], averaging: Averaging) -> None:
    expected = brute_force(np.tile(weights, (NUM_IMAGES, 1)), averaging)
    assert 0 < (expected >= DEEPEST_RANK).sum() < NUM_IMAGES
    assert (find_undecided(MEMBERS, LABELS, averaging).ranks(weights) == expected).all()


def test_weights_may_differ_from_image_to_image() -> None:
    weights = np.random.default_rng(2).random((NUM_IMAGES, NUM_MEMBERS))
    undecided = find_undecided(MEMBERS, LABELS, "probabilities")
    assert (undecided.ranks(weights) == brute_force(weights, "probabilities")).all()


def test_a_member_alone_has_the_ranks_of_its_file() -> None:
    # float16 has many equal scores where there are many classes; the rule for ties must be the one of the metrics.
    undecided = find_undecided(MEMBERS, LABELS, "probabilities")
    for number, member in enumerate(MEMBERS):
        alone = undecided.ranks(np.eye(NUM_MEMBERS)[number])
        assert (alone == np.minimum(rank_scores(member, LABELS).ranks, DEEPEST_RANK)).all()


def test_ties_go_to_the_lower_label() -> None:
    flat = np.full((3, 7), -2.0, np.float16)
    undecided = find_undecided([flat, flat], np.array([0, 3, 6]), "probabilities")
    assert undecided.ranks(np.array([0.5, 0.5])).tolist() == [0, 3, 5]
    assert len(undecided.images) == 0


def test_only_classes_that_members_disagree_about_are_kept() -> None:
    undecided = find_undecided(MEMBERS, LABELS, "probabilities")
    assert len(undecided.images) < NUM_IMAGES * NUM_CLASSES / 2
    lowest, highest = undecided.margins.min(1), undecided.margins.max(1)
    assert (lowest <= 0).all()
    assert (highest >= 0).all()


def test_a_table_larger_than_its_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained = [make_scores(LABELS, NUM_CLASSES, seed, 0.0) for seed in (4, 5, 6)]
    size = find_undecided(untrained, LABELS, "probabilities").margins.nbytes
    monkeypatch.setattr(margins_module, "_TABLE_BYTES", size - 1)
    with pytest.raises(UserError, match=r"these 3 members disagree about too much .* \d classes an image.* leave such"):
        find_undecided(untrained, LABELS, "probabilities")
    assert find_undecided(MEMBERS, LABELS, "probabilities").margins.nbytes < size


def test_some_images_alone_have_the_ranks_they_have_among_all() -> None:
    undecided = find_undecided(MEMBERS, LABELS, "probabilities")
    chosen = np.random.default_rng(3).random(NUM_IMAGES) < 0.3
    assert (undecided.of(chosen).ranks(WEIGHTS[1]) == undecided.ranks(WEIGHTS[1])[chosen]).all()


def test_a_score_that_is_not_a_number_is_never_right() -> None:
    broken = MEMBERS[0].copy()
    broken[5] = np.nan
    right = np.array([number for number in range(NUM_IMAGES) if rank_scores(MEMBERS[1], LABELS).ranks[number] == 0])
    broken[right[0], LABELS[right[0]]] = np.nan
    undecided = find_undecided([broken, MEMBERS[1]], LABELS, "probabilities")
    ranks = undecided.ranks(np.array([0.5, 0.5]))
    assert ranks[5] == ranks[right[0]] == DEEPEST_RANK


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_member_without_weight_has_no_say_whatever_its_scores_are(averaging: Averaging, bad: float) -> None:
    broken = MEMBERS[0].copy()
    broken[::2] = bad
    broken[1::2, ::3] = bad
    undecided = find_undecided([broken, MEMBERS[1]], LABELS, averaging)
    expected = np.minimum(rank_scores(MEMBERS[1], LABELS).ranks, DEEPEST_RANK)
    assert (undecided.ranks(np.array([0.0, 1.0])) == expected).all()
    assert (undecided.ranks(np.tile([0.0, 1.0], (NUM_IMAGES, 1))) == expected).all()
