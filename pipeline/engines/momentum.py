"""Momentum by parameter name: the form in which every engine saves it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_KEY = "momentum_buffer"


def momentum_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's own tensors; parameters without a step yet have none."""
    return {
        name: optimizer.state[parameter][_KEY]
        for name, parameter in model.named_parameters()
        if _KEY in optimizer.state.get(parameter, {})
    }


def load_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, torch.Tensor]) -> None:
    """Copy momentum into the layout of the parameters, skipping those that no longer learn."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name in momentum:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
            optimizer.state[parameter][_KEY] = buffer


class ZeroPartitions:
    """The momentum of an optimizer whose parameter groups DeepSpeed's ZeRO has flattened and partitioned.

    A process keeps one partition of each group: an equal piece of all its parameters laid end to end, as the parameters
    themselves lie in memory.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Record the parameters' places; construct before DeepSpeed takes over the optimizer."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = optimizer
        self._groups = [
            {names[parameter]: parameter for parameter in group["params"]} for group in optimizer.param_groups
        ]

    def gather(self) -> dict[str, torch.Tensor]:
        """Gather momentum by name, whole on every process; empty before the first step. All processes call it."""
        momentum: dict[str, torch.Tensor] = {}
        for (partition,), parameters in self._pairs():
            if _KEY not in self._optimizer.state.get(partition, {}):
                continue
            flat = partition.new_empty(torch.distributed.get_world_size() * partition.numel(), requires_grad=False)
            pieces = list(flat.chunk(torch.distributed.get_world_size()))
            torch.distributed.all_gather(pieces, self._optimizer.state[partition][_KEY])
            for name, parameter in parameters.items():
                momentum[name] = _place_of(parameter, flat)
        return momentum

    def scatter(self, momentum: Mapping[str, torch.Tensor]) -> None:
        """Copy this process's partition of the momentum; parameters without an entry start from zero."""
        for (partition,), parameters in self._pairs():
            flat = partition.new_zeros(torch.distributed.get_world_size() * partition.numel(), requires_grad=False)
            for name in parameters.keys() & momentum.keys():
                _place_of(parameters[name], flat).copy_(momentum[name])
            pieces = flat.chunk(torch.distributed.get_world_size())
            self._optimizer.state[partition][_KEY] = pieces[torch.distributed.get_rank()].clone()

    def _pairs(self) -> list[tuple[list[torch.Tensor], dict[str, nn.Parameter]]]:
        partitions = [group["params"] for group in self._optimizer.param_groups]
        return list(zip(partitions, self._groups, strict=True))


def _place_of(parameter: nn.Parameter, flat: torch.Tensor) -> torch.Tensor:
    """Return the view of the parameter's values in a copy of its group's memory."""
    return flat.narrow(0, parameter.storage_offset(), parameter.numel()).view(parameter.shape)
