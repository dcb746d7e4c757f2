"""The random weights of Shake-Shake's branches: functions of the run's seed and an image's place in the stream."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.ground.seeds import derive_seed, uniform
from pipeline.models.shake import Mixing


class BranchWeights:
    """Sets the weights of all `Mixing` modules of a network, which may have none, for batches of one size.

    An image has the same place, and so the same weights, at any world size and after a resume; in another epoch it has
    another. The weights stay at one place in memory, where CUDA graphs find those of the next batch.
    """

    def __init__(self, model: nn.Module, seed: int, images: int, device: torch.device) -> None:
        self._mixings = [module for module in model.modules() if isinstance(module, Mixing)]
        self._seed = derive_seed(seed, "branch weights")
        self._values = torch.full((len(self._mixings), 2, images), 0.5, device=device)
        for mixing, values in zip(self._mixings, self._values, strict=True):
            mixing.weights = values

    def draw(self, first_place: int) -> None:
        """Draw for the images at `first_place` of the stream and behind it."""
        if not self._mixings:
            return
        places = np.arange(first_place, first_place + self._values.shape[2])
        drawn = np.full(self._values.shape, 0.5, dtype=np.float32)
        for number, mixing in enumerate(self._mixings):
            for draw in range(1 if mixing.is_even else 2):
                drawn[number, draw] = uniform(self._seed, places, 2 * number + draw)
        weights = torch.from_numpy(drawn)
        # A copy from memory that is not pinned would wait for the GPU.
        self._values.copy_(weights.pin_memory() if self._values.is_cuda else weights, non_blocking=True)
