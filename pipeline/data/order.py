"""The order of the images in training: an endless stream of whole epochs, divided into global batches.

Epoch e of the stream is a permutation of all images drawn from (seed, e). Step k takes the images k·B to (k+1)·B of the
stream, B being the global batch; so if B does not divide the number of images a batch begins in one epoch and ends in
the next, and in every epoch each image is seen exactly once: none is dropped to fill a last batch, none is repeated.
The images of a step do not depend on the world size.
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline.ground.seeds import derive_seed


@dataclasses.dataclass(frozen=True)
class StreamOrder:
    """The stream of one run."""

    num_images: int
    global_batch: int
    seed: int

    def epoch_of(self, step: int) -> Fraction:
        """Return the number of epochs in the first `step` steps."""
        return Fraction(step * self.global_batch, self.num_images)

    def steps_for(self, epochs: int) -> int:
        """Return the number of steps after which `epochs` epochs are complete."""
        return -(-epochs * self.num_images // self.global_batch)

    def images_at(self, places: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the positions in the index of the images at these places of the stream, and the epoch of each."""
        epochs, within = np.divmod(places, self.num_images)
        positions = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            positions[chosen] = _permutation(self.num_images, self.seed, int(epoch))[within[chosen]]
        return positions, epochs


@functools.lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(derive_seed(seed, "order", epoch))).permutation(num_images)
