"""BN-Inception, as in the authors' SE-BN-Inception.prototxt: without auxiliary heads.

The gates are behind the concatenation of every module, those that halve the map included. The usual port, which ends in
27.95 % top-1 error, has 96 instead of 128 channels in the pooled branches of 4c and 4d, and so 2.02 GMAC; the paper's
2.03 are those of its prototxt. As there, sides must be multiples of 32 px: the modules that halve the map pool without
padding and convolve with it, which agree on even maps only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import nn

from pipeline.models.convolution import convolution
from pipeline.models.network import Block, Network, Options, head
from pipeline.models.se import gated


class Shape(NamedTuple):
    """The widths of a module; of pairs, the first is that of the 1x1 convolution before."""

    name: str
    """Its stage's digit and a letter."""
    ones: int
    """The 1x1 branch; 0 if the module halves the map, which drops it and the convolution behind the pooling."""
    threes: tuple[int, int]
    double_threes: tuple[int, int]
    """The branch of two 3x3 convolutions, both of the second width."""
    pool: str
    """ave or max."""
    pooled: int


def build(options: Options, *, stem: tuple[int, int, int], modules: tuple[tuple[object, ...], ...]) -> Network:
    """Build a network; `stem` are the widths of its 7x7, 1x1 and 3x3 convolutions, `modules` the fields of `Shape`."""
    conv1 = convolution(3, stem[0], 7, options, stride=2)
    reduce, conv2 = convolution(stem[0], stem[1], 1, options), convolution(stem[1], stem[2], 3, options)
    parts: dict[str, nn.Module] = {
        "conv1": nn.Sequential(OrderedDict({"7x7_s2": conv1})),
        "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "conv2": nn.Sequential(OrderedDict({"3x3_reduce": reduce, "3x3": conv2})),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
    }
    channels = stem[2]
    for fields in modules:
        shape = Shape(*fields)  # type: ignore[arg-type]
        module = parts[f"inception_{shape.name}"] = Inception(channels, shape, options)
        channels = module.out_channels
    return Network(parts | head(channels, options))


class Inception(Block):
    """Branches of convolutions side by side, concatenated and gated."""

    def __init__(self, channels: int, shape: Shape, options: Options) -> None:
        super().__init__()
        stride = 1 if shape.ones else 2
        self._branches: list[list[str]] = []
        if shape.ones:
            self._add({"1x1": convolution(channels, shape.ones, 1, options)})
        reduced, width = shape.threes
        self._add(
            {
                "3x3_reduce": convolution(channels, reduced, 1, options),
                "3x3": convolution(reduced, width, 3, options, stride=stride),
            }
        )
        reduced, width = shape.double_threes
        self._add(
            {
                "double3x3_reduce": convolution(channels, reduced, 1, options),
                "double3x3a": convolution(reduced, width, 3, options),
                "double3x3b": convolution(width, width, 3, options, stride=stride),
            }
        )
        self.out_channels = shape.ones + shape.threes[1] + width + (shape.pooled or channels)
        pool = nn.AvgPool2d if shape.pool == "ave" else nn.MaxPool2d
        if stride == 1:
            projection = convolution(channels, shape.pooled, 1, options)
            self._add({"pool": pool(3, 1, 1, ceil_mode=True), "pool_proj": projection})
        else:
            self._add({"pool": pool(3, 2, ceil_mode=True)})
        self.se_module = options.se_module(int(shape.name[0]), self.out_channels)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the gated concatenation."""
        maps = []
        for branch in self._branches:
            y_NCHW = x_NCHW
            for name in branch:
                y_NCHW = self.get_submodule(name)(y_NCHW)
            maps.append(y_NCHW)
        return gated(torch.cat(maps, 1), self.se_module)

    def _add(self, branch: dict[str, nn.Module]) -> None:
        for name, module in branch.items():
            self.add_module(name, module)
        self._branches.append(list(branch))
