"""Shake-Shake networks, for CIFAR: two branches side by side, summed with random weights of each image.

Shake-Shake 26 2x96d is xgastaldi/shake-shake's models/shakeshake.lua; Shake-Even 29 2x4x64d is its paper's ResNeXt. In
either a unit begins with a ReLU. What the first adds to its branches is the sum from before that ReLU, so that the sum
goes on raw from unit to unit; the second, a post-activation network, adds what is behind it. The paper does not say
where its gates are: here they are behind the weighted sum of the branches, before the shortcut is added.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.models.convolution import convolution
from pipeline.models.network import Block, Network, Options, head, stages
from pipeline.models.se import gated


def build(
    options: Options,
    *,
    stem: int,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    groups: int | None,
) -> Network:
    """Build a network; every stage but the first halves the map in its first unit.

    `stem`: the width of the first convolution. `widths`: channels of each stage, in the branches too. `groups`: of the
    3x3 convolution in the branches of Shake-Even, of 1x1, 3x3 and 1x1; None: branches of two 3x3 convolutions.
    """
    parts: dict[str, nn.Module] = {"layer0": convolution(3, stem, 3, options, relu=False)}
    parts |= stages(stem, widths, blocks, partial(ShakeUnit, groups=groups, options=options))
    parts["relu"] = nn.ReLU()
    return Network(parts | head(widths[-1], options))


class Mixing(nn.Module):
    """The sum of two branches with the weights a and 1 - a; gradients are passed on with b and 1 - b.

    In training a and b are random numbers of each image, unless `is_even`, with which b is 0.5 (Shake-Even). In
    evaluation, and until there are `weights`, all are 0.5.
    """

    weights: torch.Tensor | None = None
    """(2, N): a and b of each image of the next batch, set by `BranchWeights`."""

    def __init__(self, *, is_even: bool) -> None:
        super().__init__()
        self.is_even = is_even

    def forward(self, first_NCHW: torch.Tensor, second_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum."""
        if self.weights is None or not self.training:
            return (first_NCHW + second_NCHW) * 0.5
        mixed: torch.Tensor = _Mix.apply(first_NCHW, second_NCHW, *self.weights.view(2, -1, 1, 1, 1))
        return mixed


class _Mix(torch.autograd.Function):
    """Other weights backward than forward."""

    @staticmethod
    def forward(ctx: Any, first: torch.Tensor, second: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(b)
        return torch.lerp(second, first, a.to(first.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (b,) = ctx.saved_tensors
        first = gradient * b.to(gradient.dtype)
        return first, gradient - first, None, None


class ShakeUnit(Block):
    """ReLU, two branches, their weighted sum, gates; sum with the shortcut.

    (N, in_channels, H, W) to (N, width, H / stride, W / stride), rounded up.
    """

    def __init__(
        self, stage: int, in_channels: int, width: int, stride: int, *, groups: int | None, options: Options
    ) -> None:
        super().__init__()
        self._adds_raw_sums = groups is None

        def branch() -> nn.Sequential:
            if groups is None:
                first = convolution(in_channels, width, 3, options, stride=stride)
                return nn.Sequential(first, convolution(width, width, 3, options, relu=False))
            first = convolution(in_channels, width, 1, options)
            grouped = convolution(width, width, 3, options, stride=stride, groups=groups)
            return nn.Sequential(first, grouped, convolution(width, width, 1, options, relu=False))

        # Not in place: what comes in may be the shortcut too, or the input of a CUDA graph.
        self.relu = nn.ReLU()
        self.branch1, self.branch2 = branch(), branch()
        self.mixing = Mixing(is_even=groups is not None)
        self.se_module = options.se_module(stage, width)
        self.downsample: nn.Module | None = None
        if in_channels != width and groups is None:
            self.downsample = ShiftedHalves(in_channels, width, stride, options)
        elif in_channels != width:
            self.downsample = convolution(in_channels, width, 1, options, stride=stride, relu=False)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the unit's output."""
        first_NCHW = self.relu(x_NCHW)
        y_NCHW = gated(self.mixing(self.branch1(first_NCHW), self.branch2(first_NCHW)), self.se_module)
        if self.downsample is not None:
            y_NCHW += self.downsample(first_NCHW)
        else:
            y_NCHW += x_NCHW if self._adds_raw_sums else first_NCHW
        return y_NCHW


class ShiftedHalves(nn.Module):
    """Shake-Shake's shortcut to another width: two 1x1 convolutions, the second of the map shifted by one pixel to the
    right and down, which with stride 2 sees the pixels that the first leaves out."""

    def __init__(self, in_channels: int, width: int, stride: int, options: Options) -> None:
        super().__init__()
        first, second = (nn.Conv2d(in_channels, width // 2, 1, stride, bias=False) for _ in range(2))
        self.path1 = nn.Sequential(first)
        self.path2 = nn.Sequential(nn.ZeroPad2d((1, -1, 1, -1)), second)
        self.bn = nn.BatchNorm2d(width, momentum=options.bn_momentum)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the normalised concatenation."""
        y_NCHW: torch.Tensor = self.bn(torch.cat((self.path1(x_NCHW), self.path2(x_NCHW)), 1))
        return y_NCHW
