"""Momentum by the name of its parameter: the form in which every engine saves it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_KEY = "momentum_buffer"


def momentum_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's own tensors; of parameters that have taken no step yet there is none."""
    return {
        name: optimizer.state[parameter][_KEY]
        for name, parameter in model.named_parameters()
        if _KEY in optimizer.state.get(parameter, {})
    }


def load_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, torch.Tensor]) -> None:
    """Copied into the layout of the parameters; what no longer learns is left out."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name in momentum:
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
            optimizer.state[parameter][_KEY] = buffer


class ZeroShares:
    """The momentum of an optimizer whose parameter groups DeepSpeed's ZeRO has flattened and dealt out.

    Of each group a process keeps one share: an equal piece of all its parameters laid end to end, which is also how the
    parameters themselves lie in memory.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """To be made before DeepSpeed takes the optimizer over."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._optimizer = optimizer
        self._groups = [
            {names[parameter]: parameter for parameter in group["params"]} for group in optimizer.param_groups
        ]

    def gather(self) -> dict[str, torch.Tensor]:
        """Momentum by name, whole on every process; empty before the first step. All processes call it together."""
        momentum: dict[str, torch.Tensor] = {}
        for (share,), parameters in self._pairs():
            if _KEY not in self._optimizer.state.get(share, {}):
                continue
            flat = share.new_empty(torch.distributed.get_world_size() * share.numel(), requires_grad=False)
            pieces = list(flat.chunk(torch.distributed.get_world_size()))
            torch.distributed.all_gather(pieces, self._optimizer.state[share][_KEY])
            for name, parameter in parameters.items():
                momentum[name] = _place_of(parameter, flat)
        return momentum

    def deal_out(self, momentum: Mapping[str, torch.Tensor]) -> None:
        """Take this process's share; zero, which is where momentum starts, for parameters that are not named."""
        for (share,), parameters in self._pairs():
            flat = share.new_zeros(torch.distributed.get_world_size() * share.numel(), requires_grad=False)
            for name in parameters.keys() & momentum.keys():
                _place_of(parameters[name], flat).copy_(momentum[name])
            pieces = flat.chunk(torch.distributed.get_world_size())
            self._optimizer.state[share][_KEY] = pieces[torch.distributed.get_rank()].clone()

    def _pairs(self) -> list[tuple[list[torch.Tensor], dict[str, nn.Parameter]]]:
        shares = [group["params"] for group in self._optimizer.param_groups]
        return list(zip(shares, self._groups, strict=True))


def _place_of(parameter: nn.Parameter, flat: torch.Tensor) -> torch.Tensor:
    """Where the parameter's values would lie in a copy of its group's memory."""
    return flat.narrow(0, parameter.storage_offset(), parameter.numel()).view(parameter.shape)
