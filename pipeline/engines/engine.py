"""What the trainer asks of an engine; it never asks which one it has."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class OptimizerState:
    """Everything but the model that the next step depends on."""

    tensors: Mapping[str, torch.Tensor]
    """Momentum by parameter name."""
    values: Mapping[str, Any]
    """Plain values (JSON), such as the loss scale."""


class Engine(Protocol):
    """Gradients of the global batch's mean loss, reduced over all processes, and the optimizer's step."""

    model: nn.Module
    """The bare network: what is saved, loaded and evaluated."""

    def warm_up(self, image_shape: tuple[int, int, int, int]) -> None:
        """Two forward and backward passes on blank images of that shape, so that whatever an engine plans by its first
        passes is planned alike in a run that goes on and in one that was never stopped. Weights, buffers and state
        are to be loaded afterwards."""
        ...

    def load_model(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on with these weights and batch norm statistics, which are this network's."""
        ...

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) float32 images to (N, classes) float32 logits, with what backward needs."""
        ...

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch; only the `last` of a step reduces over the processes."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of this micro-batch's share of the step's mean loss."""
        ...

    def step(self, learning_rate: float) -> None:
        """Apply the gathered gradients and clear them."""
        ...

    def synchronise_buffers(self) -> None:
        """Give every process the main rank's batch norm statistics."""
        ...

    def state_dict(self) -> OptimizerState:
        """The state to save, whatever the engine: momentum of the whole network in float32, on every process.

        All processes call it together, since an engine may keep a part of it in each.
        """
        ...

    def load_state_dict(self, state: OptimizerState) -> None:
        """Go on from a saved state; momentum of parameters that no longer learn is left out."""
        ...
