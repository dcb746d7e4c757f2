from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.bootstrap import Bootstrap, wilson

IS_WRONG = np.arange(500) % 5 == 0
IS_WRONG_THEN = np.arange(500) % 4 == 0


def resampled(values: np.ndarray) -> tuple[float, float]:
    """The interval by resampling image by image."""
    generator = np.random.default_rng(11)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(4000)]
    low, high = np.percentile(100 * np.array(means), [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize(
    ("count", "images", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18), (1, 1, 20.65, 100)],
)
def test_wilsons_interval_is_that_of_newcombes_table(count: int, images: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, Table I; the last by hand."""
    interval = wilson(count, images)
    assert interval.percent == pytest.approx(100 * count / images)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_interval_of_an_error_is_that_of_resampled_images() -> None:
    interval = Bootstrap(2017, 4000).error(IS_WRONG, "x")
    low, high = resampled(IS_WRONG.astype(float))
    assert interval.percent == 20
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.5), pytest.approx(high, abs=0.5))


def test_interval_of_a_difference_is_that_of_resampled_pairs() -> None:
    interval = Bootstrap(2017, 4000).difference(IS_WRONG, IS_WRONG_THEN, "x")
    low, high = resampled(IS_WRONG_THEN.astype(float) - IS_WRONG.astype(float))
    assert interval.percent == pytest.approx(5)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.6), pytest.approx(high, abs=0.6))


def test_difference_of_a_thing_and_itself_is_nothing() -> None:
    interval = Bootstrap(2017, 200).difference(IS_WRONG, IS_WRONG, "x")
    assert (interval.percent, interval.low, interval.high) == (0, 0, 0)


def test_draws_follow_the_seed_and_the_figure() -> None:
    first = Bootstrap(2017, 200).error(IS_WRONG, "x")
    assert Bootstrap(2017, 200).error(IS_WRONG, "x") == first
    assert Bootstrap(2018, 200).error(IS_WRONG, "x") != first
    assert Bootstrap(2017, 200).error(IS_WRONG, "y") != first


def test_no_errors_have_an_interval_of_nothing() -> None:
    assert Bootstrap(2017, 200).error(np.zeros(9, bool), "x").high == 0
