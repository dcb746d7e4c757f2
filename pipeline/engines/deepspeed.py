"""DeepSpeed: its engine and its ZeRO optimizer around the same network, SGD and schedule."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pipeline.config.engines import DeepSpeedConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.engines.autocast import AutocastNetwork
from pipeline.engines.deepspeed_package import check_installed, missing
from pipeline.engines.engine import OptimizerState
from pipeline.engines.loss_scale import LossScale
from pipeline.engines.momentum import ZeroPartitions, load_momentum, momentum_by_name
from pipeline.engines.sgd import build_sgd, set_learning_rate
from pipeline.ground.distributed import Collective
from pipeline.models.batch_norm import synchronise_batch_norms

_BUCKET_VALUES = 2**23
"""Gradients summed over the processes at once: 32 MiB. DeepSpeed's default would allocate 2 GB twice."""


class DeepSpeedEngine:
    """`Engine` on DeepSpeed; the protocol documents the methods.

    Weights and gradients are float32 under every precision, as in the native engine: autocast is inside the network
    given to DeepSpeed. Its own autocast would send gradients in the narrow type, and its own float16 loss scale is each
    process's, so that one could skip a step that another takes.
    """

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        execution: ExecutionConfig,
        options: DeepSpeedConfig,
        collective: Collective,
    ) -> None:
        """Move the model to the collective's device and join its process group. Raises UserError without DeepSpeed."""
        deepspeed = _import_deepspeed(collective)
        collective.join_group()
        # It can neither send nor flatten weights in another layout; channels-last images still pass the network
        # channels-last.
        self.model = model.to(collective.device).train()
        if execution.sync_bn and collective.ranks.world_size > 1:
            synchronise_batch_norms(self.model)
        self._sgd = build_sgd(self.model, optim)
        self._loss_scale = LossScale() if execution.precision == "float16" else None
        self._partitions = ZeroPartitions(self.model, self._sgd) if options.zero_stage > 0 else None
        self._collective = collective
        self._network = AutocastNetwork(self.model, execution, collective.device, keeps_casts=True)
        self._engine, *_ = deepspeed.initialize(
            model=self._network,
            optimizer=self._sgd,
            config=_settings(options, execution),
            dist_init_required=False,
        )
        collective.limit(self._engine.data_parallel_group)

    def warm_up(self, image_shape: tuple[int, int, int, int]) -> None:
        """Do nothing: DeepSpeed's buckets follow the order of the parameters from the first step on."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the network through DeepSpeed, whose forward does nothing but bookkeeping."""
        logits: torch.Tensor = self._engine(images)
        return logits

    def accumulating(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Skip the reduction for all but the last micro-batch, except under ZeRO 2, which keeps one partition alone."""
        self._engine.set_gradient_accumulation_boundary(last)
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add gradients, scaled in float16."""
        if self._loss_scale is not None:
            if self._partitions:
                self._engine.optimizer.override_loss_scale(self._loss_scale.value)
            else:
                loss = loss * self._loss_scale.value
        with self._network.forgetting_on_error():
            self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        """Take one SGD step; in float16 skip it, and lower the scale, if a gradient overflowed."""
        self._network.forget_casts()
        set_learning_rate(self._sgd, learning_rate)
        if self._loss_scale is None:
            self._engine.step()
        elif self._partitions:
            # A norm over all partitions decides, so that they skip a step together.
            self._engine.step()
            self._loss_scale.update(overflowed=bool(self._engine.optimizer.overflow))
        else:
            overflowed = self._unscale(self._loss_scale.value)
            if overflowed:
                self._engine.zero_grad()
            else:
                self._engine.step()
            self._loss_scale.update(overflowed=overflowed)

    def synchronise_buffers(self) -> None:
        """Broadcast the buffers from the main rank."""
        if self._collective.ranks.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def state_dict(self) -> OptimizerState:
        """Return momentum by parameter name, gathered from the processes, and the loss scale."""
        momentum = self._partitions.gather() if self._partitions else momentum_by_name(self.model, self._sgd)
        return OptimizerState(momentum, {"scaler": self._loss_scale.state_dict() if self._loss_scale else {}})

    def load_state_dict(self, state: OptimizerState) -> None:
        """Load momentum by parameter name, skipping parameters that no longer learn."""
        if self._partitions:
            self._partitions.scatter(state.tensors)
        else:
            load_momentum(self.model, self._sgd, state.tensors)
        if self._loss_scale is not None and state.values.get("scaler"):
            self._loss_scale.load_state_dict(state.values["scaler"])

    def _unscale(self, scale: float) -> bool:
        """Divide the reduced gradients by the loss scale. Returns whether one of them has overflowed."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        torch._foreach_div_(gradients, scale)
        return not bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())


def _import_deepspeed(collective: Collective) -> ModuleType:
    on_cpu = collective.device.type == "cpu"
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # instead of an estimate, with a warning
    # Its name for the number of the GPU, which srun does not set.
    os.environ["LOCAL_RANK"] = str(collective.ranks.local_rank if on_cpu else collective.device.index)
    check_installed()
    try:
        deepspeed = importlib.import_module("deepspeed")
    except ImportError as error:
        raise missing(f"it cannot be imported ({error})") from error
    # It reports its own settings as warnings.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if on_cpu:
        # An extension for reductions within one machine, compiled for minutes at the first start, behind a lock that a
        # killed process leaves behind for ever. Gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _settings(options: DeepSpeedConfig, execution: ExecutionConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        # It counts images only to print a rate; micro-batches are counted by the trainer.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # which is not its default
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": options.zero_stage},
    }
    if options.zero_stage > 0:
        settings["zero_optimization"] |= {
            "reduce_bucket_size": _BUCKET_VALUES,
            # If it computes the norm, it silently skips a step with an infinite one.
            "compute_grad_norm": execution.precision == "float16",
        }
    if execution.gradient_compression == "bfloat16":
        settings["communication_data_type"] = "bf16"
    return settings
