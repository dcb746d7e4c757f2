"""PyTorch alone: autocast, DistributedDataParallel, SGD."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from pipeline.config.engines import NativeConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.engines import cuda_graphs
from pipeline.engines.autocast import AutocastNetwork
from pipeline.engines.engine import OptimizerState
from pipeline.engines.momentum import load_momentum, momentum_by_name
from pipeline.engines.sync_bn import synchronise_batch_norms
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.seeds import derive_seed
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
        self,
        model: nn.Module,
        optim: OptimConfig,
        execution: ExecutionConfig,
        options: NativeConfig,
        collective: Collective,
    ) -> None:
        """Takes the model to the collective's device. Weights and state are loaded after `simulate`, which comes first.

        UserError where the options need a GPU and there is none.
        """
        self._collective = collective
        self._execution, self._native = execution, options
        self._layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self._capture = cuda_graphs.graph_capture(collective.device) if options.cuda_graphs else None
        self.model = model.to(collective.device).to(memory_format=self._layout).train()
        self._is_distributed = collective.ranks.world_size > 1
        if execution.sync_bn and self._is_distributed:
            synchronise_batch_norms(self.model)
        self._optimizer = self._new_optimizer(optim)
        self._scaler = torch.amp.GradScaler(collective.device.type, enabled=execution.precision == "float16")
        self._runner: nn.Module = AutocastNetwork(self.model, execution, collective.device)

    def warm_up(self, image_shape: tuple[int, int, int, int]) -> None:
        """Captures CUDA graphs where the options ask for them (UserError where they are not to be trusted), joins the
        processes, and takes two forward and backward passes, to be followed by loading weights and state.

        DistributedDataParallel plans its gradient buckets anew after its first backward pass, which changes the order
        in which gradients are summed. Without this, the first step of a resumed run would sum them in another order
        than the same step of an uninterrupted run, and from three processes up the two would drift apart. It also gets
        compilation and the memory's high-water mark out of the way before the first step is timed. A single process
        has no buckets and skips it.
        """
        if self._capture is not None:
            self._capture_graphs(image_shape, self._capture)
        if not self._is_distributed:
            return
        self._join_processes()
        images = torch.zeros(image_shape, device=self._collective.device).contiguous(memory_format=self._layout)
        for _ in range(2):
            self.backward(self.forward(images).float().logsumexp(1).mean())
        self._clear_gradients()

    def load_model(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copied into the tensors that are there."""
        self.model.load_state_dict(dict(tensors))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits in float32, computed under autocast where the recipe asks for a narrower type."""
        logits: torch.Tensor = self._runner(images)
        return logits

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
        self._clear_gradients()

    def synchronise_buffers(self) -> None:
        """Broadcast from the main rank."""
        if self._is_distributed:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def state_dict(self) -> OptimizerState:
        """Momentum by parameter name, and the gradient scaler's values."""
        momentum = momentum_by_name(self.model, self._optimizer)
        return OptimizerState(momentum, {"scaler": self._scaler.state_dict()})

    def load_state_dict(self, state: OptimizerState) -> None:
        """Momentum is matched by name; what no longer learns is left out."""
        load_momentum(self.model, self._optimizer, state.tensors)
        if self._scaler.is_enabled() and state.values.get("scaler"):
            self._scaler.load_state_dict(state.values["scaler"])

    def _new_optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        return build_sgd(self.model, optim)

    def _capture_graphs(self, image_shape: tuple[int, int, int, int], capture: cuda_graphs.Capture) -> None:
        """Before the processes are joined, when nothing is on its way between them that a capture would trip over."""
        generator = torch.Generator().manual_seed(derive_seed("cuda graphs", "images"))
        images = torch.randn(image_shape, generator=generator).to(self._collective.device, memory_format=self._layout)
        cuda_graphs.own_gradients(self.model)
        plain = self._runner
        assert isinstance(plain, AutocastNetwork)
        problem: str | None
        try:
            self._runner = plain.graphed(images, capture)
            problem = cuda_graphs.disagreement(plain, self._runner, self.model, images, self._execution.precision)
        except RuntimeError as error:
            problem = f"capturing or replaying them failed ({str(error).partition(chr(10))[0]})"
        # All processes go on, or none does, and none waits for one that has given up.
        if self._collective.any(problem is not None):
            raise UserError(
                "native.cuda_graphs: CUDA graphs are not to be trusted here: "
                f"{problem or 'another process has found them wrong'}; set native.cuda_graphs: false"
            )

    def _join_processes(self) -> None:
        self._runner = nn.parallel.DistributedDataParallel(
            self._runner,
            device_ids=[self._collective.device] if self._collective.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            bucket_cap_mb=self._native.bucket_mb,
            static_graph=self._native.static_graph,
            **_OWN_STATISTICS,
        )
        if self._execution.gradient_compression == "bfloat16":
            self._runner.register_comm_hook(None, bf16_compress_hook)

    def _clear_gradients(self) -> None:
        # Those that are crops of DistributedDataParallel's buckets must stay where they are, and so must those that a
        # graph's gradients are added to.
        self._optimizer.zero_grad(set_to_none=not (self._is_distributed or self._capture))
