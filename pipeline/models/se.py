"""Squeeze-and-excitation (equations 2 to 4): per-channel scales from globally pooled features."""

from __future__ import annotations

import torch
from torch import nn


class SEModule(nn.Module):
    """The gate of section 3 of the paper: global average pool, C to C/r, ReLU, C/r to C, sigmoid; layers with bias.

    Takes maps (N, C, H, W) and returns gates (N, C, 1, 1) in 0 to 1; multiplying is left to the caller.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, kernel_size=1)
        self.excitation = nn.Sigmoid()

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the gates."""
        gates_NC11: torch.Tensor = self.excitation(self.fc2(self.relu(self.fc1(self.pool(x_NCHW)))))
        return gates_NC11
