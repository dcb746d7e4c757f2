from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.evaluation.metrics import Ranking
from pipeline.reporting.calibration import NUM_BINS, calibrate, calibration_plot


def ranking(probability: list[float], is_right: list[bool]) -> Ranking:
    zeros = np.zeros(len(probability), np.int64)
    return Ranking(zeros, np.where(is_right, 0, 1), zeros, np.array(probability, np.float32))


def test_error_is_the_mean_distance_of_accuracy_and_probability_over_the_bins() -> None:
    # Two bins: of 4 images with 0.9 two are right, of 6 with 0.3 three are.
    found = calibrate(ranking([0.9] * 4 + [0.3] * 6, [True, True, False, False] + [True, False] * 3))
    assert [(bin.images, bin.accuracy) for bin in found.bins] == [(6, 0.5), (4, 0.5)]
    assert found.error_percent == pytest.approx(100 * (0.4 * 0.4 + 0.6 * 0.2), abs=1e-4)


def test_a_network_that_is_as_sure_as_right_has_no_error() -> None:
    assert calibrate(ranking([0.5] * 10, [True, False] * 5)).error_percent == pytest.approx(0)


def test_every_probability_has_a_bin_also_one_that_rounding_lifted_above_1() -> None:
    found = calibrate(ranking([1.0, 1.0005, 0.0], [True] * 3))
    assert [(round(bin.low * NUM_BINS), bin.images) for bin in found.bins] == [(0, 1), (NUM_BINS - 1, 2)]


def test_no_line_joins_the_bins_and_one_image_says_little() -> None:
    calibration = calibrate(ranking([0.15] + [0.95] * 400, [True] * 401))
    single, many = calibration.bins
    assert single.accuracy_interval == pytest.approx((0.21, 1.0), abs=0.01)
    assert many.accuracy_interval == pytest.approx((0.99, 1.0), abs=0.01)
    axes = Figure().add_subplot()
    calibration_plot("c", calibration).draw(axes)
    joined = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_linestyle() != "None"]
    assert joined == [[0, 1]], "the diagonal alone"


def test_what_is_not_a_number_is_in_no_bin() -> None:
    assert calibrate(ranking([float("nan"), 0.5], [False, True])).bins[0].images == 1
