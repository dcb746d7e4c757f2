from __future__ import annotations

import numpy as np

from pipeline.evaluation.margins import find_undecided
from pipeline.evaluation.selection import select_greedily, stratified_halves
from tests.evaluation.ensemble_members import make_scores

LABELS = np.random.default_rng(4).integers(0, 10, 400)


def test_halves_are_halves_of_every_class_and_follow_the_seed() -> None:
    is_second = stratified_halves(LABELS, 7)
    assert abs(int(is_second.sum()) - 200) <= 1
    for label in range(10):
        of_class = label == LABELS
        assert abs(int((is_second & of_class).sum()) - np.count_nonzero(of_class) / 2) <= 0.5
    assert (stratified_halves(LABELS, 7) == is_second).all()
    assert (stratified_halves(LABELS, 8) != is_second).any()


def test_halves_are_drawn_and_not_every_other_image() -> None:
    is_second = stratified_halves(np.zeros(100, np.int64), 7)
    assert is_second.sum() == 50
    assert 10 < is_second[::2].sum() < 40


def test_the_best_member_is_chosen_and_a_useless_one_left_out() -> None:
    good = make_scores(LABELS, 10, 1, skill=6)
    noise = make_scores(LABELS, 10, 2, skill=0)
    weights = select_greedily(find_undecided([noise, good], LABELS, "probabilities"))
    assert weights.sum() == 1
    assert weights[1] > 0.7


def test_a_choice_is_never_worse_than_its_best_member_on_the_images_it_was_made_on() -> None:
    members = [make_scores(LABELS, 10, seed, skill=3) for seed in range(4)]
    undecided = find_undecided(members, LABELS, "probabilities")
    errors = [int((undecided.ranks(weights) >= 5).sum()) for weights in np.eye(4)]
    weights = select_greedily(undecided)
    assert int((undecided.ranks(weights) >= 5).sum()) < min(errors)
    assert (weights > 0).sum() > 1


def test_of_equal_members_the_first_is_chosen_once() -> None:
    same = make_scores(LABELS, 10, 1)
    assert select_greedily(find_undecided([same, same.copy()], LABELS, "probabilities")).tolist() == [1, 0]
