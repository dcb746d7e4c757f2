"""The native engine with what NVIDIA Apex has for this network: a fused SGD, and a batch norm fused with its ReLU."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from pipeline.config.engines import ApexConfig, NativeConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.engines.apex_package import check_installed, extensions, missing
from pipeline.engines.engine import OptimizerState
from pipeline.engines.native import NativeEngine
from pipeline.engines.nhwc_batch_norm import fuse_batch_norms
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.training.optim import parameter_groups


class ApexEngine(NativeEngine):
    """`NativeEngine` with the parts of Apex that `options` names. Checkpoints are those of the native engine."""

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        execution: ExecutionConfig,
        options: ApexConfig,
        collective: Collective,
    ) -> None:
        """As for `NativeEngine`. UserError where Apex, one of its extensions or the GPU is missing."""
        check_apex(options, collective.device)
        self._options = options
        if options.nhwc_batch_norm:
            fuse_batch_norms(model)
        super().__init__(model, optim, execution, NativeConfig(), collective)

    def load_state_dict(self, state: OptimizerState) -> None:
        """As the native engine does; what has no momentum in the state starts from zero."""
        super().load_state_dict(state)
        if self._options.fused_sgd:
            give_momentum(self._optimizer)

    def _new_optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        return build_fused_sgd(self.model, optim) if self._options.fused_sgd else super()._new_optimizer(optim)

    def _clear_gradients(self) -> None:
        # Apex's own zero_grad cannot be told whether to keep the tensors.
        torch.optim.Optimizer.zero_grad(self._optimizer, set_to_none=not self._is_distributed)


def build_fused_sgd(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Apex's FusedSGD with the groups, and the formula, of the native engine's SGD.

    Momentum is kept under the same name as in torch.optim.SGD and means the same, so that either goes on from the
    other's.
    """
    fused_sgd: Any = importlib.import_module("apex.optimizers").FusedSGD
    optimizer: torch.optim.Optimizer = fused_sgd(
        parameter_groups(model, config), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
    )
    give_momentum(optimizer)
    return optimizer


def give_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zero momentum for every parameter that has none, which makes its first step the one that SGD defines.

    Left to itself, Apex takes the last parameter of a group for all of them: where that one has no momentum yet, it
    overwrites the others'.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def check_apex(options: ApexConfig, device: torch.device) -> None:
    """UserError where Apex or an extension that `options` need is missing or does not load, with the command that
    builds it, and where there is no GPU."""
    check_installed(options)
    for module in ("apex.optimizers", *extensions(options)):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise missing(f"{module} cannot be imported ({error})", options) from error
    if device.type != "cuda":
        raise UserError("engine: apex runs on CUDA GPUs only, and there is none here; choose native or deepspeed")
