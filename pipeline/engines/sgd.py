"""The optimizer of the paper: synchronous SGD with momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.config.training import OptimConfig


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Group the parameters that take gradients for an optimizer: those that decay, and those that do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (decayed if _decays(module, name, config) else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_sgd(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """Build SGD over the parameters that take gradients.

    PyTorch keeps the learning rate out of the momentum buffer, while Caffe multiplied it in; the two differ only in the
    steps just after a change of rate, and the buffer needs no correction at a drop.
    """
    groups = parameter_groups(model, config)
    on_gpu = any(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True if on_gpu else None
    )


def _decays(module: nn.Module, name: str, config: OptimConfig) -> bool:
    """Decide by module type, never by name: a name filter misses the batch norm of a projection shortcut."""
    if config.decay == "all":
        return True
    return isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
