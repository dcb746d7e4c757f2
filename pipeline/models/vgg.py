"""VGG-16 with a batch norm after each convolution (section 5.1 of the paper).

"Each convolution" are the 13 convolutional layers; their biases, which a batch norm makes useless, are left out, as in
the paper's other networks. The fully connected layers of 4,096 with dropout 0.5 are the original's. The gates are
behind the ReLU of each convolution ("after the non-linearity following each convolution", section 3.3).
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.convolution import convolution
from pipeline.models.network import HEAD, Block, Network, Options
from pipeline.models.se import gated


def build(options: Options, *, stages: tuple[tuple[int, ...], ...], hidden: int, side: int) -> Network:
    """Build a network: the widths of the convolutions of each stage, and of two fully connected layers.

    `side` is that of the last map at the network's own image size; at other sizes the map is averaged to it.
    """
    parts: dict[str, nn.Module] = {}
    channels = 3
    for stage, widths in enumerate(stages, start=1):
        blocks = []
        for width in widths:
            blocks.append(GatedConvolution(channels, width, stage, options))
            channels = width
        parts |= {f"conv{stage}": nn.Sequential(*blocks), f"pool{stage}": nn.MaxPool2d(2, 2)}
    parts |= {"pool_to_side": nn.AdaptiveAvgPool2d(side), "flatten": nn.Flatten(1)}
    features = channels * side**2
    for number in (6, 7):
        parts |= {
            f"fc{number}": nn.Linear(features, hidden),
            f"relu{number}": nn.ReLU(inplace=True),
            f"drop{number}": nn.Dropout(options.dropout),
        }
        features = hidden
    return Network(parts | {HEAD: nn.Linear(hidden, options.num_classes)})


class GatedConvolution(Block):
    """A 3x3 convolution, batch norm, ReLU, gates."""

    def __init__(self, in_channels: int, width: int, stage: int, options: Options) -> None:
        super().__init__()
        self.unit = convolution(in_channels, width, 3, options)
        self.se_module = options.se_module(stage, width)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return gated(self.unit(x_NCHW), self.se_module)
