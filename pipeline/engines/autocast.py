"""The network under autocast, as every engine runs it."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import nn

from pipeline.config.execution import ExecutionConfig
from pipeline.engines.compilation import compile_blocks
from pipeline.engines.cuda_graphs import Capture, capture_sections


class AutocastNetwork(nn.Module):
    """(N, 3, S, S) float32 images to float32 logits, in the recipe's precision between, compiled where it says so."""

    def __init__(self, network: nn.Module, execution: ExecutionConfig, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._dtype = getattr(torch, execution.precision)
        self._device_type = device.type
        # In a tuple, since the compiled network is a module too and its parameters are those of `network`.
        self._runner: tuple[nn.Module] = (compile_blocks(network) if execution.compile else network,)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Under autocast where the precision is not float32: it would cost a pass through its dispatch for nothing."""
        with self._autocast():
            logits: torch.Tensor = self._runner[0](images)
        return logits.float()

    def graphed(self, images: torch.Tensor, capture: Capture) -> AutocastNetwork:
        """The same network, its sections captured for batches like `images`; see `capture_sections`."""
        graphed = copy.copy(self)
        with self._autocast():
            graphed._runner = (capture_sections(self._runner[0], images, capture),)
        return graphed

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        # A pass uses each weight once, so narrow copies of them are not worth keeping; and CUDA graphs must make them
        # anew at every replay.
        return torch.autocast(self._device_type, self._dtype, cache_enabled=False)
