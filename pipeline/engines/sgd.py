"""The optimizer of the paper: synchronous SGD with momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline.config.training import OptimConfig
from pipeline.models.head import is_in_head


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Group the parameters that take gradients for an optimizer: those that decay, and those that do not.

    Each has its `lr_factor`, for `set_learning_rate`; if the classifier has another, it is in groups of its own.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for factor in dict.fromkeys((1.0, config.head_lr_factor)):
        groups |= {(config.weight_decay if decays else 0.0, factor): [] for decays in (True, False)}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decay = config.weight_decay if _decays(module, name, config) else 0.0
                factor = config.head_lr_factor if is_in_head(f"{prefix}.{name}") else 1.0
                groups[decay, factor].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in groups.items()
        if parameters
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of every group, for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


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
