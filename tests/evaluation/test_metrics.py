from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.data.index import ImageClass
from pipeline.evaluation.metrics import (
    Ranking,
    class_table,
    error_percent,
    label_ranks,
    rank_scores,
    worst_mistakes,
)


def sorted_by_the_rule(row: npt.NDArray[np.float16]) -> list[int]:
    """Classes in order, by a plain sort: higher score first, of equals the lower label first."""
    return sorted(range(len(row)), key=lambda label: (-float(row[label]), label))


def ranking_of(scores: npt.NDArray[np.float16], labels: list[int]) -> Ranking:
    return rank_scores(scores, np.array(labels, dtype=np.int64))


def test_ranks_agree_with_a_plain_sort_where_many_scores_are_equal() -> None:
    generator = np.random.default_rng(11)
    scores = generator.integers(-4, 0, size=(500, 9)).astype(np.float16)
    labels = generator.integers(0, 9, size=500)
    ranking = rank_scores(scores, labels)
    orders = [sorted_by_the_rule(row) for row in scores]
    assert ranking.ranks.tolist() == [order.index(label) for order, label in zip(orders, labels, strict=True)]
    assert ranking.predicted.tolist() == [order[0] for order in orders]
    for k in (1, 5):
        assert ranking.errors(k) == sum(label not in order[:k] for order, label in zip(orders, labels, strict=True))


def test_errors_agree_with_torch_topk_where_no_scores_are_equal() -> None:
    generator = torch.Generator().manual_seed(12)
    scores = torch.rand(300, 40, generator=generator).argsort(1).float()
    labels = torch.randint(0, 40, (300,), generator=generator)
    ranks = label_ranks(scores, labels)
    for k in (1, 5):
        in_topk = (scores.topk(k, dim=1).indices == labels[:, None]).any(1)
        assert torch.equal(ranks < k, in_topk)


def test_a_network_that_says_not_a_number_is_never_right() -> None:
    scores = np.full((3, 6), -1.0, dtype=np.float16)
    scores[0] = np.nan
    scores[1, 0] = np.nan  # a class before the true one
    scores[2, 5] = np.nan  # a class after it
    ranking = ranking_of(scores, [0, 1, 0])
    assert ranking.ranks.tolist() == [6, 1, 1]
    assert ranking.errors(1) == 3
    assert worst_mistakes(ranking, 24) == []


def test_with_five_classes_or_fewer_every_image_is_among_the_top_five() -> None:
    scores = np.log(np.array([[0.7, 0.2, 0.1]], dtype=np.float16))
    assert ranking_of(scores, [2]).errors(5) == 0


def test_memory_mapped_scores_are_ranked_over_all_their_rows(tmp_path: Path) -> None:
    scores = np.random.default_rng(13).normal(size=(5000, 3)).astype(np.float16)
    labels = np.random.default_rng(14).integers(0, 3, size=5000)
    np.save(tmp_path / "scores.npy", scores)
    mapped = rank_scores(np.load(tmp_path / "scores.npy", mmap_mode="r"), labels)
    assert mapped.predicted.tolist() == scores.argmax(1).tolist()
    assert mapped.errors(1) == int((scores.argmax(1) != labels).sum())


def test_class_table_counts_images_and_errors_of_each_class_that_has_images() -> None:
    classes = [
        ImageClass(0, "n01", "a tab\there", None),
        ImageClass(1, "n02", "dog", None),
        ImageClass(2, "n03", "", 7),
    ]
    ranking = Ranking(
        labels=np.array([0, 0, 1, 1]),
        ranks=np.array([0, 3, 5, 6]),
        predicted=np.array([0, 1, 0, 0]),
        probability=np.ones(4, dtype=np.float32),
    )
    rows = list(csv.reader(io.StringIO(class_table(ranking, classes)), delimiter="\t"))
    assert rows == [
        ["label", "folder", "words", "images", "top1_errors", "top5_errors"],
        ["0", "n01", "a tab\there", "2", "1", "0"],
        ["1", "n02", "dog", "2", "2", "2"],
    ]


def test_worst_mistakes_are_the_surest_wrong_answers_and_equals_come_in_index_order() -> None:
    scores = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.2, 0.8]])).astype(np.float16)
    mistakes = worst_mistakes(ranking_of(scores, [0, 0, 1, 1, 0]), 2)
    assert [mistake["position"] for mistake in mistakes] == [1, 4]
    assert mistakes[0] == {
        "position": 1,
        "label": 0,
        "predicted": 1,
        "probability": pytest.approx(0.8, abs=1e-3),
        "label_rank": 1,
    }


def test_error_is_in_percent() -> None:
    assert error_percent(9340, 50000) == 18.68
