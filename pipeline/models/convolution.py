"""A convolution with its batch norm, the unit of most networks."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from pipeline.models.network import Options

Sides = int | tuple[int, int]


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: Sides,
    options: Options,
    *,
    stride: int = 1,
    padding: Sides | None = None,
    groups: int = 1,
    relu: bool = True,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Return `conv` without bias, `bn` and, unless told otherwise, `relu`; padded to keep the size unless told how."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    modules: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    modules["bn"] = nn.BatchNorm2d(out_channels, eps, options.bn_momentum)
    if relu:
        modules["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(modules)
