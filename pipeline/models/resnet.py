"""Residual networks of bottleneck blocks: ResNet, ResNeXt, and SENet-154 with the changes of the paper's appendix.

Layer for layer the authors' prototxts, except that the last pooling covers any map instead of 7x7 only. State dicts use
the names of Cadene's port and timm's legacy networks, so those weights load unchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

import torch
from torch import nn

from pipeline.models.network import Block, Network, Options, head, stages
from pipeline.models.se import SEModule, gated
from pipeline.networks.registry import Integration


def build(
    options: Options,
    *,
    stem: tuple[int, ...],
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    divisors: tuple[int, int],
    groups: int,
    stride_in: Literal["1x1", "3x3"],
    projection_kernel: int = 1,
) -> Network:
    """Build a network; every stage but the first halves the map in its first block.

    `stem`: the width of one 7x7 convolution, or of several 3x3 ones, of which the first has stride 2. `widths`: output
    channels of each stage; those of a block's first 1x1 convolution and of its 3x3 convolution, which has `groups`, are
    the same divided by `divisors`. `stride_in`: which of the two has the stride. `projection_kernel`: of a shortcut
    with stride 2; others are 1x1.
    """
    is_ceil = options.max_pool == "ceil"
    parts: dict[str, nn.Module] = {
        "layer0": _stem(stem, options.bn_momentum),
        "pool0": nn.MaxPool2d(kernel_size=3, stride=2, padding=0 if is_ceil else 1, ceil_mode=is_ceil),
    }
    block = partial(
        Bottleneck,
        divisors=divisors,
        groups=groups,
        stride_in=stride_in,
        projection_kernel=projection_kernel,
        options=options,
    )
    parts |= stages(stem[-1], widths, blocks, block)
    return Network(parts | head(widths[-1], options))


class Bottleneck(Block):
    """1x1, grouped 3x3, 1x1, sum with the shortcut, ReLU; with gates at one of five places.

    (N, in_channels, H, W) to (N, width, H / stride, W / stride), rounded up.
    """

    def __init__(
        self,
        stage: int,
        in_channels: int,
        width: int,
        stride: int,
        *,
        divisors: tuple[int, int],
        groups: int,
        stride_in: Literal["1x1", "3x3"],
        projection_kernel: int,
        options: Options,
    ) -> None:
        super().__init__()
        momentum, inner = options.bn_momentum, (width // divisors[0], width // divisors[1])
        strides = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner[0], kernel_size=1, stride=strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(inner[0], momentum=momentum)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(*inner, 3, stride=strides[1], padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner[1], momentum=momentum)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner[1], width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width, momentum=momentum)
        self.relu = nn.ReLU(inplace=True)
        self._integration = None if options.se is None else options.se.integration
        gated = {"pre": in_channels, "3x3": inner[1]}.get(self._integration or "", width)
        # The paper counts the stem as the first stage.
        self.se_module: SEModule | None = options.se_module(stage + 1, gated)
        self.downsample: nn.Module | None = None
        if in_channels != width:
            # With stride 2 a 1x1 drops three of four positions, hence the appendix's change (c), a 3x3.
            kernel = projection_kernel if stride == 2 else 1
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(width, momentum=momentum),
            )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y_NCHW = self._gated("pre", x_NCHW)
        y_NCHW = self.relu1(self.bn1(self.conv1(y_NCHW)))
        y_NCHW = self.relu2(self.bn2(self.conv2(y_NCHW)))
        y_NCHW = self._gated("3x3", y_NCHW)
        y_NCHW = self._gated("standard", self.bn3(self.conv3(y_NCHW)))
        # In place if backward does not need the old values. Not torch.addcmul: its one rounding instead of two moves
        # ReLUs over their kink, and the gradients of a float32 network of this depth then differ in the third digit.
        y_NCHW += self._gated("identity", x_NCHW if self.downsample is None else self.downsample(x_NCHW))
        return self._gated("post", self.relu(y_NCHW))

    def _gated(self, place: Integration, x_NCHW: torch.Tensor) -> torch.Tensor:
        return gated(x_NCHW, self.se_module if self._integration == place else None)


def _stem(widths: tuple[int, ...], bn_momentum: float) -> nn.Sequential:
    """Return one 7x7 convolution, or several 3x3 in its place: change (b) of the appendix."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    channels, kernel = 3, 7 if len(widths) == 1 else 3
    for index, width in enumerate(widths, start=1):
        stride = 2 if index == 1 else 1
        modules[f"conv{index}"] = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        modules[f"bn{index}"] = nn.BatchNorm2d(width, momentum=bn_momentum)
        modules[f"relu{index}"] = nn.ReLU(inplace=True)
        channels = width
    return nn.Sequential(modules)
