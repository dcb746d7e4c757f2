"""ShuffleNet of the first version: grouped 1x1 convolutions and a shuffle of channels ("ShuffleNet", Zhang et al.).

The shuffle is before the depthwise convolution, as in the ShuffleNet paper's Figure 2. The SENet paper does not say
where its gates are: here they are at the end of the branch, before the sum or the concatenation, as in ResNets; a
sixteenth of the first unit's 240 - 24 channels is 13, rounded down. Parameters are then 1.87 and 2.48 million, which it
gives as 1.8 and 2.4; of its 140 million multiply-adds, the ShuffleNet paper's nominal figure, 137 are counted.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.convolution import convolution
from pipeline.models.network import Block, Network, Options, head
from pipeline.models.se import gated


def build(options: Options, *, stem: int, groups: int, stages: tuple[tuple[int, int], ...]) -> Network:
    """Build a network: the width of its first convolution, then width and number of units of each stage."""
    parts: dict[str, nn.Module] = {
        "conv1": convolution(3, stem, 3, options, stride=2),
        "pool1": nn.MaxPool2d(3, 2, padding=1),
    }
    channels = stem
    for stage, (width, count) in enumerate(stages, start=2):
        units = []
        for index in range(count):
            # The first convolution of all has too few inputs for groups.
            first_groups = 1 if channels == stem else groups
            units.append(ShuffleUnit(channels, width, (first_groups, groups), index == 0, stage, options))
            channels = width
        parts[f"stage{stage}"] = nn.Sequential(*units)
    return Network(parts | head(channels, options))


class ShuffleUnit(Block):
    """A grouped 1x1 convolution to a quarter of the width, shuffle, depthwise 3x3, grouped 1x1, gates; then the sum
    with the input or, where the map is halved, the input's average in front of the branch's channels; ReLU."""

    def __init__(
        self, in_channels: int, width: int, groups: tuple[int, int], is_halving: bool, stage: int, options: Options
    ) -> None:
        """`groups`: those of the first and of the last convolution."""
        super().__init__()
        inner, stride = width // 4, 2 if is_halving else 1
        out = width - in_channels if is_halving else width
        self.gconv1 = convolution(in_channels, inner, 1, options, groups=groups[0])
        self.shuffle = nn.ChannelShuffle(groups[1])
        self.dw = convolution(inner, inner, 3, options, stride=stride, groups=inner, relu=False)
        self.gconv2 = convolution(inner, out, 1, options, groups=groups[1], relu=False)
        self.se_module = options.se_module(stage, out)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if is_halving else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the unit's output."""
        y_NCHW = gated(self.gconv2(self.dw(self.shuffle(self.gconv1(x_NCHW)))), self.se_module)
        both = x_NCHW + y_NCHW if self.pool is None else torch.cat((self.pool(x_NCHW), y_NCHW), 1)
        output_NCHW: torch.Tensor = self.relu(both)
        return output_NCHW
