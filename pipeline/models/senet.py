"""SENet-154 and networks of the same blocks: "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, appendix A.

Layer for layer the authors' SENet-154.prototxt, except that the last pooling covers any map instead of 7x7 only. State
dicts use the names of Cadene's port and timm's legacy_senet154, so those weights load unchanged.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from pipeline.ground.seeds import derive_seed
from pipeline.models.se import SEModule
from pipeline.networks.spec import MaxPool, SENetSpec


class SEBottleneck(nn.Module):
    """1x1 to half the width, grouped 3x3 to the width (with the stride), 1x1, gate, sum with the shortcut, ReLU.

    (N, in_channels, H, W) to (N, width, H / stride, W / stride), rounded up.
    """

    def __init__(
        self, in_channels: int, width: int, *, stride: int, groups: int, reduction: int, bn_momentum: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width // 2, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2, momentum=bn_momentum)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width // 2, width, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=bn_momentum)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width, momentum=bn_momentum)
        self.relu = nn.ReLU(inplace=True)
        self.se_module = SEModule(width, reduction)
        self.downsample: nn.Module | None = None
        if in_channels != width:
            # A 1x1 with stride 2 would drop three of four positions; the appendix's change (c) is a 3x3.
            kernel = 3 if stride == 2 else 1
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width, momentum=bn_momentum),
            )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        shortcut = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        y_NCHW = self.relu1(self.bn1(self.conv1(x_NCHW)))
        y_NCHW = self.relu2(self.bn2(self.conv2(y_NCHW)))
        y_NCHW = self.bn3(self.conv3(y_NCHW))
        # In place if backward does not need the old values. Not torch.addcmul: its one rounding instead of two moves
        # ReLUs over their kink, and the gradients of a float32 network of this depth then differ in the third digit.
        y_NCHW = y_NCHW * self.se_module(y_NCHW)
        y_NCHW += shortcut
        output_NCHW: torch.Tensor = self.relu(y_NCHW)
        return output_NCHW


class SENet(nn.Module):
    """Map normalised images (N, 3, H, W), of any size from 3 px up, to class scores (N, num_classes) before the
    softmax."""

    def __init__(
        self,
        spec: SENetSpec,
        num_classes: int,
        *,
        dropout: float = 0.2,
        bn_momentum: float = 0.1,
        max_pool: MaxPool = "ceil",
    ) -> None:
        """Set up the layers; `dropout` is the fraction dropped before the classifier, `bn_momentum` the newest batch's
        weight."""
        super().__init__()
        self.spec = spec
        self.layer0 = _stem(spec.stem_widths, bn_momentum)
        is_ceil = max_pool == "ceil"
        self.pool0 = nn.MaxPool2d(kernel_size=3, stride=2, padding=0 if is_ceil else 1, ceil_mode=is_ceil)
        channels = spec.stem_widths[-1]
        for index, (width, blocks) in enumerate(zip(spec.widths, spec.blocks, strict=True), start=1):
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if index > 1 and block == 0 else 1
                stage.append(
                    SEBottleneck(
                        channels,
                        width,
                        stride=stride,
                        groups=spec.groups,
                        reduction=spec.reduction,
                        bn_momentum=bn_momentum,
                    )
                )
                channels = width
            self.add_module(f"layer{index}", stage)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(channels, num_classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the class scores."""
        x_NCHW = self.pool0(self.layer0(images_NCHW))
        for index in range(1, len(self.spec.widths) + 1):
            x_NCHW = self.get_submodule(f"layer{index}")(x_NCHW)
        x_NC = torch.flatten(self.avg_pool(x_NCHW), 1)
        scores_NC: torch.Tensor = self.last_linear(self.dropout(x_NC))
        return scores_NC


def _stem(widths: tuple[int, int, int], bn_momentum: float) -> nn.Sequential:
    """Return three 3x3 convolutions in place of one 7x7: change (b) of the appendix."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for index, width in enumerate(widths, start=1):
        stride = 2 if index == 1 else 1
        modules[f"conv{index}"] = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        modules[f"bn{index}"] = nn.BatchNorm2d(width, momentum=bn_momentum)
        modules[f"relu{index}"] = nn.ReLU(inplace=True)
        channels = width
    return nn.Sequential(modules)


def allocate(model: nn.Module, device: torch.device) -> None:
    """Allocate uninitialised memory for a network on the meta device.

    Equivalent to `model.to_empty`, which imports sympy and takes seconds for it.
    """
    empty = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(empty, assign=True)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Set every parameter and buffer: He weights, zero biases, batch norms at (1, 0) with fresh statistics.

    Weights are normal with standard deviation sqrt(2 / fan-in), equation (10) of "Delving Deep into Rectifiers". The
    paper names that initialisation but not its fan. Only the fan-in is right for grouped convolutions: PyTorch's
    fan-out counts the channels of all groups, though an input reaches only its own, and so is 64 times too large in
    SENet-154. Each tensor is drawn from the seed and its name alone; the global generators are neither read nor
    advanced.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            generator = torch.Generator().manual_seed(derive_seed(seed, "initialise", f"{name}.weight"))
            # Drawn in one fixed memory layout on the CPU, so that channels_last or a GPU does not change the values.
            weight = torch.empty(module.weight.shape, device="cpu")
            module.weight.copy_(weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator))
            if module.bias is not None:
                module.bias.zero_()
