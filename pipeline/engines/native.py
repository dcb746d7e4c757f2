"""PyTorch alone: autocast, DistributedDataParallel, SGD."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from pipeline.config.engines import NativeConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.engines.autocast import AutocastNetwork
from pipeline.engines.engine import OptimizerState
from pipeline.engines.momentum import load_momentum, momentum_by_name
from pipeline.engines.sgd import build_sgd, set_learning_rate
from pipeline.ground.distributed import Collective
from pipeline.ground.seeds import derive_seed
from pipeline.models.batch_norm import synchronise_batch_norms

if TYPE_CHECKING:
    from pipeline.engines.cuda_graphs import Capture

# Each process keeps its own batch norm statistics, as in 2017; `synchronise_buffers` broadcasts them. PyTorch is
# renaming the argument.
_OWN_STATISTICS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


class NativeEngine:
    """`Engine` on PyTorch alone; the protocol documents the methods."""

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        execution: ExecutionConfig,
        options: NativeConfig,
        collective: Collective,
    ) -> None:
        """Move the model to the collective's device. Raises UserError if the options need a GPU and there is none."""
        self._collective = collective
        self._precision = execution.precision
        self._reduction: dict[str, Any] = {"bucket_cap_mb": options.bucket_mb, "static_graph": options.static_graph}
        self._is_compressed = execution.gradient_compression == "bfloat16"
        self._layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self._capture: Capture | None = None
        if options.cuda_graphs:
            from pipeline.engines.cuda_graphs import graph_capture

            self._capture = graph_capture(collective.device)
        self.model = model.to(collective.device).to(memory_format=self._layout).train()
        self._is_distributed = collective.ranks.world_size > 1
        if execution.sync_bn and self._is_distributed:
            synchronise_batch_norms(self.model)
        self._optimizer = self._new_optimizer(optim)
        self._scaler = torch.amp.GradScaler(collective.device.type, enabled=execution.precision == "float16")
        self._network = AutocastNetwork(self.model, execution, collective.device, keeps_casts=not options.cuda_graphs)
        self._runner: nn.Module = self._network

    def warm_up(self, image_shape: tuple[int, int, int, int]) -> None:
        """Capture CUDA graphs if the options ask for them, join the processes, and run two passes.

        DistributedDataParallel plans its gradient buckets anew after its first backward pass, which changes the order
        in which gradients are summed. Without this, the first step of a resumed run would sum them in another order
        than the same step of an uninterrupted run, and from three processes up the two would drift apart. Compilation
        and the peak of memory also come before the first step is timed. A single process has no buckets and skips it.
        Raises UserError if CUDA graphs compute something else here.
        """
        with _unmoved_statistics(self.model):
            if self._capture is not None:
                self._capture_graphs(image_shape, self._capture)
            if not self._is_distributed:
                return
            self._join_processes()
            images = torch.zeros(image_shape, device=self._collective.device).contiguous(memory_format=self._layout)
            for _ in range(2):
                self.backward(self.forward(images).float().logsumexp(1).mean())
            self._network.forget_casts()
            self._clear_gradients()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits in float32, computed under autocast if the recipe asks for a narrower type."""
        logits: torch.Tensor = self._runner(images)
        return logits

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Skip the reduction for all but the last micro-batch."""
        if last or not self._is_distributed:
            return contextlib.nullcontext()
        assert isinstance(self._runner, nn.parallel.DistributedDataParallel)
        return self._runner.no_sync()

    def backward(self, loss: torch.Tensor) -> None:
        """Add gradients, scaled in float16."""
        with self._network.forgetting_on_error():
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        """Take one SGD step; in float16 skip it, and lower the scale, if a gradient overflowed."""
        self._network.forget_casts()
        set_learning_rate(self._optimizer, learning_rate)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._clear_gradients()

    def synchronise_buffers(self) -> None:
        """Broadcast the buffers from the main rank."""
        if self._is_distributed:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def state_dict(self) -> OptimizerState:
        """Return momentum by parameter name, and the gradient scaler's values."""
        momentum = momentum_by_name(self.model, self._optimizer)
        return OptimizerState(momentum, {"scaler": self._scaler.state_dict()})

    def load_state_dict(self, state: OptimizerState) -> None:
        """Load momentum by parameter name, skipping parameters that no longer learn."""
        load_momentum(self.model, self._optimizer, state.tensors)
        if self._scaler.is_enabled() and state.values.get("scaler"):
            self._scaler.load_state_dict(state.values["scaler"])

    def _new_optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        return build_sgd(self.model, optim)

    def _capture_graphs(self, image_shape: tuple[int, int, int, int], capture: Capture) -> None:
        """Capture before the processes are joined, when no communication can disturb the capture."""
        from pipeline.engines.cuda_graphs import capture_network

        generator = torch.Generator().manual_seed(derive_seed("cuda graphs", "images"))
        images = torch.randn(image_shape, generator=generator).to(self._collective.device, memory_format=self._layout)
        self._runner = capture_network(self._network, self.model, images, capture, self._precision, self._collective)

    def _join_processes(self) -> None:
        self._runner = nn.parallel.DistributedDataParallel(
            self._runner,
            device_ids=[self._collective.device] if self._collective.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **self._reduction,
            **_OWN_STATISTICS,
        )
        if self._is_compressed:
            self._runner.register_comm_hook(None, bf16_compress_hook)

    def _clear_gradients(self) -> None:
        # Views of DistributedDataParallel's buckets must stay in place, and so must the gradients that a graph adds to.
        self._optimizer.zero_grad(set_to_none=not (self._is_distributed or self._capture))


@contextlib.contextmanager
def _unmoved_statistics(model: nn.Module) -> Iterator[None]:
    """Restore the buffers, which forward passes change, at the end."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
