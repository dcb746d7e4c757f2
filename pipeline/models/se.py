"""Squeeze-and-excitation (equations 2 to 4): per-channel scales from globally pooled features."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipeline.ground.errors import UserError
from pipeline.networks.registry import SEBlock

_SQUEEZES: Mapping[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.AdaptiveAvgPool2d(1),
    "max": lambda: nn.AdaptiveMaxPool2d(1),
    "none": nn.Identity,
}
_EXCITATIONS: Mapping[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class SEModule(nn.Module):
    """The gates of section 3 of the paper: global pooling, C to C/r, ReLU, C/r to C, sigmoid, or what `se` says.

    Takes maps (N, C, H, W) and returns gates (N, C, 1, 1), or (N, C, H, W) if nothing is squeezed; multiplying is left
    to the caller. Raises UserError if the reduction leaves no channel.
    """

    def __init__(self, stage: int, channels: int, se: SEBlock) -> None:
        super().__init__()
        self.stage = stage
        self.channels = channels
        inner = channels // se.reduction
        if inner == 0:
            raise UserError(
                f"model.se.reduction: must be at most {channels}, the channels of one of the network's blocks "
                f"(given {se.reduction})"
            )
        self.pool = _SQUEEZES[se.squeeze]()
        self.fc1 = nn.Conv2d(channels, inner, kernel_size=1, bias=se.bias)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(inner, channels, kernel_size=1, bias=se.bias)
        self.excitation = _EXCITATIONS[se.excitation]()

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the gates."""
        gates: torch.Tensor = self.excitation(self.fc2(self.relu(self.fc1(self.pool(x_NCHW)))))
        return gates


def gated(x_NCHW: torch.Tensor, se_module: SEModule | None) -> torch.Tensor:
    """Return the map times its gates; the map itself if there are none."""
    return x_NCHW if se_module is None else x_NCHW * se_module(x_NCHW)
