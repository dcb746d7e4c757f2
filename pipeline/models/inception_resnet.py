"""Inception-ResNet-v2, as TF-slim and all ports of its weights have it; state dicts use the names of timm.

The Inception-v4 paper's figures describe another stem and 5, 10 and 5 residual blocks: 9.26 GMAC at 299 px; this one
has 13.16. The SENet paper's 11.75 fit neither, and it does not say which it means. Nor does it place the gates: here
they are at the end of each residual branch, before the scaled sum ("the same scheme" as in ResNets), and not behind the
modules that change the size of the map. They see the branch before it is scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from pipeline.models.convolution import Sides, convolution
from pipeline.models.network import Block, Network, Options, head
from pipeline.models.se import gated

_EPS = 1e-3
Unit = tuple[int, Sides] | tuple[int, Sides, int] | str
"""Channels and kernel of a convolution, and 2 if it halves the map, without padding; or a pooling."""
Branches = tuple[tuple[Unit, ...], ...]

MIXED_5B: Branches = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)), ("average", (64, 1)))
BLOCK_35: Branches = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
MIXED_6A: Branches = (((384, 3, 2),), ((256, 1), (256, 3), (384, 3, 2)), ("max",))
BLOCK_17: Branches = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
MIXED_7A: Branches = (
    ((256, 1), (384, 3, 2)),
    ((256, 1), (288, 3, 2)),
    ((256, 1), (288, 3), (320, 3, 2)),
    ("max",),
)
BLOCK_8: Branches = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))


def build(options: Options, *, blocks: tuple[int, int, int], divisor: int = 1) -> Network:
    """Build a network with so many residual blocks of each size of the map, and all widths divided by `divisor`."""
    unit = partial(convolution, options=options, eps=_EPS)
    stem = [width // divisor for width in (32, 32, 64, 80, 192)]
    parts: dict[str, nn.Module] = {
        "conv2d_1a": unit(3, stem[0], 3, stride=2, padding=0),
        "conv2d_2a": unit(stem[0], stem[1], 3, padding=0),
        "conv2d_2b": unit(stem[1], stem[2], 3),
        "maxpool_3a": nn.MaxPool2d(3, 2),
        "conv2d_3b": unit(stem[2], stem[3], 1),
        "conv2d_4a": unit(stem[3], stem[4], 3, padding=0),
        "maxpool_5a": nn.MaxPool2d(3, 2),
    }
    parts["mixed_5b"] = mixed = Mixed(stem[4], MIXED_5B, divisor, options)
    branches = partial(Residual, divisor=divisor, options=options)
    parts["repeat"] = _repeated(blocks[0], lambda: branches(mixed.out_channels, BLOCK_35, 0.17, stage=5))
    parts["mixed_6a"] = mixed_6a = Mixed(mixed.out_channels, MIXED_6A, divisor, options)
    parts["repeat_1"] = _repeated(blocks[1], lambda: branches(mixed_6a.out_channels, BLOCK_17, 0.1, stage=6))
    parts["mixed_7a"] = mixed_7a = Mixed(mixed_6a.out_channels, MIXED_7A, divisor, options)
    channels = mixed_7a.out_channels
    parts["repeat_2"] = _repeated(blocks[2] - 1, lambda: branches(channels, BLOCK_8, 0.2, stage=7))
    parts["block8"] = branches(channels, BLOCK_8, 1.0, stage=7, relu=False)
    parts["conv2d_7b"] = unit(channels, 1536 // divisor, 1)
    return Network(parts | head(1536 // divisor, options))


class Mixed(Block):
    """Branches side by side, concatenated."""

    def __init__(self, channels: int, branches: Branches, divisor: int, options: Options) -> None:
        super().__init__()
        self.out_channels = _add_branches(self, channels, branches, divisor, options)
        self._count = len(branches)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the concatenation."""
        return _concatenated(self, self._count, x_NCHW)


class Residual(Block):
    """Branches side by side, concatenated, back to the input's width by a linear 1x1 convolution; the scaled sum."""

    def __init__(
        self,
        channels: int,
        branches: Branches,
        scale: float,
        *,
        stage: int,
        divisor: int,
        options: Options,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self._count, self._scale = len(branches), scale
        self.conv2d = nn.Conv2d(_add_branches(self, channels, branches, divisor, options), channels, 1)
        self.se_module = options.se_module(stage, channels)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y_NCHW = gated(self.conv2d(_concatenated(self, self._count, x_NCHW)), self.se_module)
        output_NCHW: torch.Tensor = self.relu(torch.add(x_NCHW, y_NCHW, alpha=self._scale))
        return output_NCHW


def _repeated(count: int, block: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(block() for _ in range(count)))


def _add_branches(module: nn.Module, channels: int, branches: Branches, divisor: int, options: Options) -> int:
    """Add `branch0` and so on, a Sequential unless of one unit. Returns the channels of all together."""
    total = 0
    for number, branch in enumerate(branches):
        units: list[nn.Module] = []
        width = channels
        for unit in branch:
            if isinstance(unit, str):
                is_max = unit == "max"
                units.append(nn.MaxPool2d(3, 2) if is_max else nn.AvgPool2d(3, 1, 1, count_include_pad=False))
                continue
            out, kernel, *halving = unit
            stride, padding = (2, 0) if halving else (1, None)
            units.append(convolution(width, out // divisor, kernel, options, stride=stride, padding=padding, eps=_EPS))
            width = out // divisor
        module.add_module(f"branch{number}", units[0] if len(units) == 1 else nn.Sequential(*units))
        total += width
    return total


def _concatenated(module: nn.Module, count: int, x_NCHW: torch.Tensor) -> torch.Tensor:
    return torch.cat([module.get_submodule(f"branch{number}")(x_NCHW) for number in range(count)], 1)
