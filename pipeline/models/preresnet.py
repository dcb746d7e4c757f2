"""Residual networks with pre-activation, for CIFAR: batch norm and ReLU come before each convolution.

Pre-activation ResNets ("Identity Mappings in Deep Residual Networks"; KaimingHe/resnet-1k-layers) and Wide ResNets. A
unit that changes the width projects what its first batch norm and ReLU have made of its input, by a 1x1 convolution.
The paper does not say where its gates are: as in its other networks, behind the last convolution of the branch.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from pipeline.models.network import Block, Network, Options, head, stages
from pipeline.models.se import gated


def build(
    options: Options, *, stem: int, widths: tuple[int, ...], blocks: tuple[int, ...], kernels: tuple[int, ...]
) -> Network:
    """Build a network; every stage but the first halves the map in the first convolution of its first unit.

    `stem`: the width of the first convolution. `widths`: output channels of each stage. `kernels`: of a unit's
    convolutions; those before a last 1x1 convolution have a quarter of the width.
    """
    parts: dict[str, nn.Module] = {"layer0": nn.Conv2d(3, stem, kernel_size=3, padding=1, bias=False)}
    parts |= stages(stem, widths, blocks, partial(PreActivation, kernels=kernels, options=options))
    parts["bn"] = nn.BatchNorm2d(widths[-1], momentum=options.bn_momentum)
    parts["relu"] = nn.ReLU(inplace=True)
    return Network(parts | head(widths[-1], options))


class PreActivation(Block):
    """Batch norm, ReLU and convolution, several times; gates; sum with the shortcut.

    (N, in_channels, H, W) to (N, width, H / stride, W / stride), rounded up.
    """

    bn1: nn.BatchNorm2d
    relu1: nn.ReLU
    conv1: nn.Conv2d

    def __init__(
        self, stage: int, in_channels: int, width: int, stride: int, *, kernels: tuple[int, ...], options: Options
    ) -> None:
        super().__init__()
        inner = width // 4 if kernels[-1] == 1 else width
        channels = in_channels
        for number, kernel in enumerate(kernels, start=1):
            out_channels, stride_here = width if number == len(kernels) else inner, stride if number == 1 else 1
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels, momentum=options.bn_momentum))
            # Not in place in the first: what comes in is the shortcut too.
            self.add_module(f"relu{number}", nn.ReLU(inplace=number > 1))
            conv = nn.Conv2d(channels, out_channels, kernel, stride_here, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            channels = out_channels
        numbers = range(2, len(kernels) + 1)
        self._rest = tuple(f"{kind}{number}" for number in numbers for kind in ("bn", "relu", "conv"))
        self.se_module = options.se_module(stage, width)
        self.downsample: nn.Module | None = None
        if in_channels != width:
            self.downsample = nn.Conv2d(in_channels, width, kernel_size=1, stride=stride, bias=False)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the unit's output."""
        first_NCHW = self.relu1(self.bn1(x_NCHW))
        y_NCHW = self.conv1(first_NCHW)
        for name in self._rest:
            y_NCHW = self.get_submodule(name)(y_NCHW)
        y_NCHW = gated(y_NCHW, self.se_module)
        y_NCHW += x_NCHW if self.downsample is None else self.downsample(first_NCHW)
        return y_NCHW
