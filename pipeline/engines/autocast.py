"""The network under autocast, as every engine runs it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.config.execution import ExecutionConfig
from pipeline.engines.compilation import compile_blocks


class AutocastNetwork(nn.Module):
    """(N, 3, S, S) float32 images to float32 logits, in the recipe's precision and compiled if the recipe asks for
    it."""

    def __init__(self, network: nn.Module, execution: ExecutionConfig, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._dtype = getattr(torch, execution.precision)
        self._device_type = device.type
        # In a tuple, since the compiled network is a module too and its parameters are those of `network`.
        self._runner: tuple[nn.Module] = (compile_blocks(network) if execution.compile else network,)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        with self._autocast():
            logits: torch.Tensor = self._runner[0](images)
        return logits.float()

    def rebuilt(self, build: Callable[[nn.Module], nn.Module]) -> AutocastNetwork:
        """Return the same network run by `build(network)`, which is called under autocast."""
        other = copy.copy(self)
        with self._autocast():
            other._runner = (build(self._runner[0]),)
        return other

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            # Autocast would cost a pass through its dispatch for nothing.
            return contextlib.nullcontext()
        # A pass uses each weight once, so a cache of casts is useless; and CUDA graphs must cast anew at every replay.
        return torch.autocast(self._device_type, self._dtype, cache_enabled=False)
