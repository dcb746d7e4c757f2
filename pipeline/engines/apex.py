"""The native engine with NVIDIA Apex's fused SGD."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from pipeline.config.engines import NativeConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.engines.apex_package import EXTENSION, check_installed, missing
from pipeline.engines.engine import OptimizerState
from pipeline.engines.native import NativeEngine
from pipeline.engines.sgd import parameter_groups
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError


class ApexEngine(NativeEngine):
    """`NativeEngine` with another SGD. Its checkpoints are those of the native engine."""

    def __init__(
        self, model: nn.Module, optim: OptimConfig, execution: ExecutionConfig, collective: Collective
    ) -> None:
        """Build a `NativeEngine` with fused SGD. Raises UserError if Apex, its extension or the GPU is missing."""
        check_apex(collective.device)
        super().__init__(model, optim, execution, NativeConfig(), collective)

    def load_state_dict(self, state: OptimizerState) -> None:
        """Load a state as the native engine does; parameters without momentum in the state start from zero."""
        super().load_state_dict(state)
        give_momentum(self._optimizer)

    def _new_optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        return build_fused_sgd(self.model, optim)

    def _clear_gradients(self) -> None:
        # Apex's own zero_grad has no option to keep the tensors.
        torch.optim.Optimizer.zero_grad(self._optimizer, set_to_none=not self._is_distributed)


def build_fused_sgd(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build Apex's FusedSGD with the parameter groups, and the formula, of the native engine's SGD.

    Momentum has the same name and meaning as in torch.optim.SGD, so that either can resume from the other's.
    """
    fused_sgd: Any = importlib.import_module("apex.optimizers").FusedSGD
    optimizer: torch.optim.Optimizer = fused_sgd(
        parameter_groups(model, config), lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
    )
    give_momentum(optimizer)
    return optimizer


def give_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give zero momentum to every parameter that has none, which makes its first step as SGD defines it.

    By default Apex takes the last parameter of a group for all of them: if that one has no momentum yet, it overwrites
    the others'.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def check_apex(device: torch.device) -> None:
    """Raise UserError if Apex or its extension is missing or does not load, or if there is no GPU."""
    check_installed()
    for module in ("apex.optimizers", EXTENSION):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise missing(f"{module} cannot be imported ({error})") from error
    if device.type != "cuda":
        raise UserError("engine: apex runs on CUDA GPUs only, and there is none here; choose native or deepspeed")
