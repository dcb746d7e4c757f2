"""The interface between trainer and engines; the trainer never asks which engine it has."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class OptimizerState:
    """The state of the optimizer: with the model's, all that the next step depends on."""

    tensors: Mapping[str, torch.Tensor]
    """Momentum by parameter name."""
    values: Mapping[str, Any]
    """Plain values (JSON), such as the loss scale."""


class Engine(Protocol):
    """Computes gradients of the global batch's mean loss, reduced over all processes, and takes the optimizer's
    step."""

    model: nn.Module
    """The bare network, to be saved and evaluated. Its weights are loaded before the engine is made."""

    def warm_up(self, image_shape: tuple[int, int, int, int]) -> None:
        """Run forward and backward on blank images of that shape; weights and buffers stay unchanged.

        So plans that an engine bases on its first passes are the same in a resumed and in an uninterrupted run. The
        optimizer's state is loaded afterwards.
        """
        ...

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, classes) float32 logits for (N, 3, S, S) float32 images, with the graph for backward."""
        ...

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Wrap forward and backward of one micro-batch; only the `last` of a step reduces over the processes."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of this micro-batch's part of the step's mean loss."""
        ...

    def step(self, learning_rate: float) -> None:
        """Apply the accumulated gradients and clear them."""
        ...

    def synchronise_buffers(self) -> None:
        """Broadcast the main rank's batch norm statistics."""
        ...

    def state_dict(self) -> OptimizerState:
        """Return the state to save: momentum of the whole network in float32, on every process.

        All processes call it together, since an engine may keep a part of it in each.
        """
        ...

    def load_state_dict(self, state: OptimizerState) -> None:
        """Load a saved state, skipping momentum of parameters that no longer learn."""
        ...
