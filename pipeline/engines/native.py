"""PyTorch alone: autocast, DistributedDataParallel, SGD."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
import torch.distributed
from torch import nn

from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.distributed import Collective
from pipeline.engines.compilation import compile_blocks
from pipeline.engines.engine import OptimizerState
from pipeline.training.optim import build_sgd

# The batch norm statistics are each process's own, as in 2017; `synchronise_buffers` hands them on where needed.
# PyTorch is renaming the argument that says so.
_OWN_STATISTICS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


class NativeEngine:
    """The engine that needs nothing but PyTorch; see `Engine` for what each method promises."""

    def __init__(
        self, model: nn.Module, optim: OptimConfig, execution: ExecutionConfig, collective: Collective
    ) -> None:
        """Takes the model to the collective's device. Weights and state are loaded afterwards: see `rehearse`."""
        self._collective = collective
        self._dtype = getattr(torch, execution.precision)
        layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self.model = model.to(collective.device).to(memory_format=layout).train()
        self._optimizer = build_sgd(self.model, optim)
        # Autocast without a narrower type would still cost a pass through its dispatch.
        self._scaler = torch.amp.GradScaler(collective.device.type, enabled=execution.precision == "float16")
        compiled = compile_blocks(self.model) if execution.compile else self.model
        self._is_distributed = collective.ranks.world_size > 1
        self._runner: nn.Module = compiled
        if self._is_distributed:
            self._runner = nn.parallel.DistributedDataParallel(
                self._runner,
                device_ids=[collective.device] if collective.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **_OWN_STATISTICS,
            )

    def rehearse(self, image_shape: tuple[int, int, int, int]) -> None:
        """Two forward and backward passes on blank images, to be followed by loading weights and state.

        DistributedDataParallel plans its gradient buckets anew after its first backward pass, which changes the order
        in which gradients are summed. Without this, the first step of a resumed run would sum them in another order
        than the same step of an uninterrupted run, and from three processes up the two would drift apart. It also gets
        compilation and the memory's high-water mark out of the way before the first step is timed. A single process
        has no buckets and skips it.
        """
        if not self._is_distributed:
            return
        images = torch.zeros(image_shape, device=self._collective.device)
        if next(self.model.parameters()).is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        for _ in range(2):
            self.backward(self.forward(images).float().logsumexp(1).mean())
        self._optimizer.zero_grad(set_to_none=not self._is_distributed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits in float32, computed under autocast where the recipe asks for a narrower type."""
        with self._autocast():
            logits: torch.Tensor = self._runner(images)
        return logits.float()

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Without reduction for all but the last micro-batch."""
        if last or not self._is_distributed:
            return contextlib.nullcontext()
        assert isinstance(self._runner, nn.parallel.DistributedDataParallel)
        return self._runner.no_sync()

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients, scaled in float16."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        """One SGD step; in float16 it is left out, and the scale lowered, where a gradient overflowed."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        # Gradients that are views of DistributedDataParallel's buckets must stay where they are.
        self._optimizer.zero_grad(set_to_none=not self._is_distributed)

    def synchronise_buffers(self) -> None:
        """Broadcast from the main rank."""
        if self._is_distributed:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def state_dict(self) -> OptimizerState:
        """Momentum by parameter name, and the gradient scaler's values."""
        momentum = {
            name: self._optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if "momentum_buffer" in self._optimizer.state.get(parameter, {})
        }
        return OptimizerState(momentum, {"scaler": self._scaler.state_dict()})

    def load_state_dict(self, state: OptimizerState) -> None:
        """Momentum is matched by name; what no longer learns is left out."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and name in state.tensors:
                momentum = torch.empty_like(parameter, requires_grad=False).copy_(state.tensors[name])
                self._optimizer.state[parameter]["momentum_buffer"] = momentum
        if self._scaler.is_enabled() and state.values.get("scaler"):
            self._scaler.load_state_dict(state.values["scaler"])

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._collective.device.type, self._dtype)
