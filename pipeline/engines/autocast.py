"""The network under autocast, as every engine runs it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pipeline.config.execution import ExecutionConfig
from pipeline.engines.compilation import compile_network


class AutocastNetwork(nn.Module):
    """(N, 3, S, S) float32 images to float32 logits, in the recipe's precision and compiled if the recipe asks for
    it."""

    def __init__(
        self, network: nn.Module, execution: ExecutionConfig, device: torch.device, *, keeps_casts: bool = False
    ) -> None:
        """If `keeps_casts`, each learning weight is cast once until `forget_casts`, which must come between the last
        pass before a change of the weights and the first after it. Not for CUDA graphs, which must cast the current
        weights at each replay."""
        super().__init__()
        self.network = network
        self._dtype = getattr(torch, execution.precision)
        self._device_type = device.type
        self._keeps_casts = keeps_casts and self._dtype != torch.float32
        self._is_keeping = False
        # In a tuple, since the compiled network is a module too and its parameters are those of `network`.
        self._runner: tuple[nn.Module] = (compile_network(network) if execution.compile else network,)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        if self._keeps_casts and not self._is_keeping:
            # Autocast clears its cache when the outermost context ends; this one ends in `forget_casts`.
            torch.autocast_increment_nesting()
            self._is_keeping = True
        with self.forgetting_on_error(), self._autocast():
            logits: torch.Tensor = self._runner[0](images)
        return logits.float()

    def forget_casts(self) -> None:
        """Cast the weights anew in the next pass."""
        if self._is_keeping:
            self._is_keeping = False
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()

    @contextlib.contextmanager
    def forgetting_on_error(self) -> Iterator[None]:
        """Forget the casts if a pass fails: autocast's nesting is the whole process's, and no step will end it."""
        try:
            yield
        except BaseException:
            self.forget_casts()
            raise

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
        # A cast that was made without gradients would cut the weight off from them in a later pass.
        is_cached = self._keeps_casts and torch.is_grad_enabled()
        return torch.autocast(self._device_type, self._dtype, cache_enabled=is_cached)
