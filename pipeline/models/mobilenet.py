"""MobileNet: depthwise and pointwise convolutions in turn ("MobileNets", Howard et al.).

The paper does not say where its gates are. They are behind the ReLU of each pointwise convolution: that alone gives its
4.7 million parameters and 572 million multiply-adds, one for each value that is scaled included.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.convolution import convolution
from pipeline.models.network import Block, Network, Options, head
from pipeline.models.se import gated


def build(options: Options, *, stem: int, blocks: tuple[tuple[int, int], ...]) -> Network:
    """Build a network: the width of the first convolution, which halves the map; width and stride of each block."""
    parts: dict[str, nn.Module] = {"conv1": convolution(3, stem, 3, options, stride=2)}
    channels, stage = stem, 1
    for number, (width, stride) in enumerate(blocks, start=2):
        stage += stride - 1
        parts[f"conv{number}"] = Separable(channels, width, stride, stage, options)
        channels = width
    return Network(parts | head(channels, options))


class Separable(Block):
    """A depthwise 3x3 convolution, with the stride, and a pointwise one; gates."""

    def __init__(self, in_channels: int, width: int, stride: int, stage: int, options: Options) -> None:
        """`stage`: 1 for the largest maps, one more whenever they are halved."""
        super().__init__()
        self.dw = convolution(in_channels, in_channels, 3, options, stride=stride, groups=in_channels)
        self.sep = convolution(in_channels, width, 1, options)
        self.se_module = options.se_module(stage, width)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return gated(self.sep(self.dw(x_NCHW)), self.se_module)
