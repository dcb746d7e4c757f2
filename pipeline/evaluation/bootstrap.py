"""95 % intervals of errors: of Wilson's score, and of the bootstrap over resampled images.

An image is wrong or not, so the number of errors in a resample of N images is binomial, and of the images on which two
networks differ multinomial: drawing these counts is the same as resampling the images one by one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ground.intervals import NORMAL_QUANTILE
from pipeline.ground.seeds import derive_seed

_PERCENTILES = (2.5, 97.5)
Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value in percent of the images, and the bounds of its 95 % interval."""

    percent: float
    low: float
    high: float


def wilson(count: int, images: int) -> Interval:
    """Return the share of `count` of the images with Wilson's score interval, which holds for few images, for none
    and for all of them too."""
    share, spread = count / images, NORMAL_QUANTILE**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(100 * share, max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half)))


class Bootstrap:
    """Draws resamples, the same for the same seed, figure and errors."""

    def __init__(self, seed: int, samples: int) -> None:
        self._seed = seed
        self._samples = samples

    def error(self, is_wrong: Flags, what: str) -> Interval:
        """Return the error of one classifier; `what` names the figure and selects its random numbers."""
        images = len(is_wrong)
        wrong = int(is_wrong.sum())
        return _interval(
            100 * wrong / images, self._generator(what).binomial(images, wrong / images, self._samples), images
        )

    def difference(self, is_wrong: Flags, is_wrong_then: Flags, what: str) -> Interval:
        """Return by how much the second classifier's error is higher, on the same resamples."""
        images = len(is_wrong)
        lost, gained = int((is_wrong_then & ~is_wrong).sum()), int((is_wrong & ~is_wrong_then).sum())
        shares = np.array([lost, gained, images - lost - gained]) / images
        counts = self._generator(what).multinomial(images, shares, self._samples)
        return _interval(100 * (lost - gained) / images, counts[:, 0] - counts[:, 1], images)

    def _generator(self, what: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, "bootstrap", what))


def _interval(percent: float, counts: npt.NDArray[Any], images: int) -> Interval:
    low, high = np.percentile(100.0 * counts / images, _PERCENTILES)
    return Interval(percent, float(low), float(high))
