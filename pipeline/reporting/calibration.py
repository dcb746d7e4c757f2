"""The reliability diagram and the expected calibration error."""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.axes import Axes

from pipeline.evaluation.bootstrap import wilson
from pipeline.evaluation.metrics import Ranking
from pipeline.reporting.plots import PALETTE, Plot, legend_above

NUM_BINS = 15
"""As in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images whose first prediction has a probability in some range."""

    low: float
    high: float
    images: int
    probability: float
    """Mean probability of the first prediction, 0 to 1; so is the next."""
    accuracy: float
    """Share of the first predictions that are right."""

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy; for one image it is most of 0 to 1."""
        interval = wilson(round(self.accuracy * self.images), self.images)
        return interval.low / 100, interval.high / 100


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predicted probabilities beside observed accuracy."""

    bins: tuple[Bin, ...]
    """Without the empty ones."""
    error_percent: float
    """Expected calibration error: mean distance of accuracy and probability over the bins, weighted by their images."""


def calibrate(ranking: Ranking) -> Calibration:
    """Return the calibration of the first predictions; images whose probability is NaN are in no bin."""
    known = np.isfinite(ranking.probability)
    probability = np.clip(ranking.probability[known].astype(np.float64), 0.0, 1.0)
    is_right = ranking.ranks[known] == 0
    # A bin holds its upper edge: a probability of 1 is in the last one.
    places = np.clip(np.ceil(probability * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    bins = []
    for place in range(NUM_BINS):
        chosen = places == place
        if chosen.any():
            mean, accuracy = float(probability[chosen].mean()), float(is_right[chosen].mean())
            bins.append(Bin(place / NUM_BINS, (place + 1) / NUM_BINS, int(chosen.sum()), mean, accuracy))
    distance = sum(found.images * abs(found.accuracy - found.probability) for found in bins)
    return Calibration(tuple(bins), 100 * distance / max(1, len(probability)))


def calibration_plot(name: str, calibration: Calibration) -> Plot:
    """Plot the reliability diagram, with the share of the images in each bin and the 95 % interval of its accuracy."""
    bins = calibration.bins
    images = sum(found.images for found in bins)

    def draw(axes: Axes) -> None:
        axes.bar(
            [(found.low + found.high) / 2 for found in bins],
            [found.images / images for found in bins],
            width=0.9 / NUM_BINS,
            color=PALETTE.shade,
            label="share of images",
        )
        axes.plot([0, 1], [0, 1], color=PALETTE.muted, linewidth=0.9, linestyle=(0, (4, 3)), label="as sure as right")
        # No line joins the bins: one image is right or wrong, and its interval says how little that means.
        axes.vlines(
            [found.probability for found in bins],
            *zip(*(found.accuracy_interval for found in bins), strict=True),
            color=PALETTE.line,
            linewidth=1,
        )
        axes.plot(
            [found.probability for found in bins],
            [found.accuracy for found in bins],
            color=PALETTE.line,
            linestyle="none",
            marker="o",
            markersize=4,
            label="right, 95 % interval",
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("probability of the first prediction")
        axes.set_ylabel("share that is right")
        legend_above(axes)

    mean = sum(found.images * found.probability for found in bins) / max(1, images)
    right = sum(found.images * found.accuracy for found in bins) / max(1, images)
    told = f"{100 * mean:.1f} % sure on average and {100 * right:.1f} % right"
    text = f"Reliability under {name}: {told}; expected calibration error {calibration.error_percent:.2f} %"
    return Plot(f"calibration_{name}", text, draw)
