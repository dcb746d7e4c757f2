from __future__ import annotations

import numpy as np

from pipeline.evaluation.metrics import Ranking
from pipeline.reporting.confusion import Confusion, confusion_matrix, confusions


def test_confusions_are_counted_and_shown_by_their_surest_image() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 0, 0, 1, 1])
    probability = np.array([0.4, 0.6, 0.9, 0.5, 0.5, np.nan], np.float32)
    found = confusions(Ranking(labels, (labels != predicted).astype(np.int64), predicted, probability))
    assert found == (
        Confusion(label=0, predicted=1, images=2, of_class=3, position=1),
        Confusion(label=1, predicted=0, images=1, of_class=2, position=3),
        Confusion(label=2, predicted=1, images=1, of_class=1, position=5),
    )


def test_no_mistake_is_no_confusion() -> None:
    labels = np.arange(3)
    assert confusions(Ranking(labels, np.zeros(3, np.int64), labels, np.ones(3, np.float32))) == ()


def test_all_images_are_counted_by_true_and_predicted_class_of_few_classes() -> None:
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 2, 1, 1])
    ranking = Ranking(labels, (labels != predicted).astype(np.int64), predicted, np.full(4, 0.5, np.float32))
    assert confusion_matrix(ranking, 3) == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert confusion_matrix(ranking, 21) is None
