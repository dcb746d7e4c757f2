"""The networks as numbers: layers, parameters, multiply-adds and memory, without torch.

A `SENetSpec` describes any network made of SENet-154's blocks. The paper's other networks (SE-ResNet, SE-ResNeXt) have
another stem, block and projection; each family is to have a description and a module of its own beside these.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

_INDEX_BYTES = 8

MaxPool = Literal["ceil", "padded"]
"""The first pooling, 3x3 with stride 2. The authors' is not padded and rounds up; some ports pad by 1 and round down,
which shifts every pooling window by one pixel up and to the left. Their weights reach their accuracy with it only."""


@dataclasses.dataclass(frozen=True)
class SENetSpec:
    """SENet-154 and its relatives: "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, appendix A.

    The stem is three 3x3 convolutions, the first with stride 2, then a max-pool: 3x3, stride 2, no padding, rounded up.
    Every stage but the first halves the map in the 3x3 convolution of its first block.
    """

    name: str
    stem_widths: tuple[int, int, int]
    widths: tuple[int, ...]
    """Output channels of each stage; a block's first 1x1 convolution has half of them (change (a) of the appendix)."""
    blocks: tuple[int, ...]
    """Blocks of each stage."""
    groups: int
    """Groups of the blocks' 3x3 convolutions."""
    reduction: int
    """The paper's r: a stage's width by the width between its two squeeze-and-excitation layers."""
    image_size_px: int
    """Side of the images that the network was made for."""


SPECS: dict[str, SENetSpec] = {
    spec.name: spec
    for spec in (
        # SENet-154.prototxt, which the authors published: 3 stem convolutions + 50 blocks x 3 + 1 classifier = 154.
        SENetSpec(
            "senet154", (64, 64, 128), (256, 512, 1024, 2048), (3, 8, 36, 3), groups=64, reduction=16, image_size_px=224
        ),
        # The same blocks for images of 32 px on a CPU. With 16 groups the three stages have 2, 4 and 8 input channels a
        # group, as the first three of SENet-154 have.
        SENetSpec("senet_nano", (16, 16, 32), (64, 128, 256), (1, 2, 1), groups=16, reduction=16, image_size_px=32),
    )
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of the layer table, in the terms and under the names of the authors' prototxt.

    Sizes and strides are those of either side of a square. A convolution without bias is followed by a batch norm, and
    the two are one row. None if a kind has no such number.
    """

    name: str
    kind: str
    """conv, max_pool_ceil, global_avg_pool, scale_add_relu, dropout or fc; the authors' own table has two more."""
    inputs: str
    out_size: int
    in_channels: int | None = None
    out_channels: int | None = None
    kernel: int | None = None
    stride: int | None = None
    padding: int | None = None
    groups: int | None = None
    bias: bool | None = None
    parameters: int = 0
    """Learnable values, those of the row's batch norm included."""
    buffers: int = 0
    """Running means and variances; PyTorch's batch counters are not among them."""
    macs: int = 0
    """Multiply-adds for one image."""
    saved_values: int = 0
    """Values per image kept for backward, in the forward pass's precision, when PyTorch runs layer by layer."""
    saved_indices: int = 0
    """64-bit indices per image kept for backward."""

    @property
    def stage(self) -> str:
        """The part of the network: conv1, pool1, conv2 ... or classifier."""
        part = self.name.partition("_")[0].partition("/")[0]
        return part if part.startswith("conv") or part == "pool1" else "classifier"

    def activation_bytes(self, bytes_per_value: int) -> int:
        """Return the bytes per image kept for backward."""
        return self.saved_values * bytes_per_value + self.saved_indices * _INDEX_BYTES


def layer_table(spec: SENetSpec, num_classes: int, image_size_px: int) -> tuple[Layer, ...]:
    """Return every layer for a square image of `image_size_px`, at least 3, in the order of the authors' prototxt.

    The authors' last pooling is fixed at 7x7; here it covers the whole map, which is the same at 224 px.
    """
    return tuple(_layers(spec, num_classes, image_size_px))


def count_parameters(spec: SENetSpec, num_classes: int) -> int:
    """Return the number of learnable values."""
    return sum(layer.parameters for layer in _layers(spec, num_classes, 224))


def count_buffers(spec: SENetSpec, num_classes: int) -> int:
    """Return the number of values of the running means and variances."""
    return sum(layer.buffers for layer in _layers(spec, num_classes, 224))


def count_macs(spec: SENetSpec, num_classes: int, image_size_px: int) -> int:
    """Return multiply-adds of the convolutions and the classifier for one image, the paper's "FLOPs"."""
    return sum(layer.macs for layer in _layers(spec, num_classes, image_size_px))


def activation_bytes(spec: SENetSpec, image_size_px: int, bytes_per_value: int) -> int:
    """Return the bytes per image that PyTorch keeps from forward for backward in eager training.

    `bytes_per_value` is 4 for float32 and 2 for bfloat16 or float16. Not included: weights, gradients, and the
    temporary memory of a single operation.
    """
    return sum(layer.activation_bytes(bytes_per_value) for layer in _layers(spec, 1, image_size_px))


def _layers(spec: SENetSpec, num_classes: int, image_size_px: int) -> Iterator[Layer]:
    size, channels, source = image_size_px, 3, "data"
    for index, width in enumerate(spec.stem_widths, start=1):
        stride = 2 if index == 1 else 1
        name = f"conv1_{index}/3x3" + ("_s2" if stride == 2 else "")
        layer = _conv(name, source, size, channels, width, kernel=3, stride=stride)
        if source == "data":
            layer = dataclasses.replace(layer, saved_values=layer.saved_values + channels * size * size)
        yield layer
        size, channels, source = layer.out_size, width, name
    size = math.ceil((size - 3) / 2) + 1
    values = channels * size * size
    yield Layer(
        "pool1/3x3_s2",
        "max_pool_ceil",
        source,
        size,
        kernel=3,
        stride=2,
        padding=0,
        saved_values=values,
        saved_indices=values,
    )
    source = "pool1/3x3_s2"
    for stage, (width, blocks) in enumerate(zip(spec.widths, spec.blocks, strict=True), start=2):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            layers = _block(spec, f"conv{stage}_{block}", source, size, channels, width, stride)
            yield from layers
            size, channels, source = layers[-1].out_size, width, layers[-1].name
    yield Layer("pool5", "global_avg_pool", source, 1)
    # Dropout keeps the factors that it multiplied by, the classifier keeps the product.
    yield Layer("dropout", "dropout", "pool5", 1, saved_values=2 * channels)
    yield Layer(
        "classifier",
        "fc",
        "dropout",
        1,
        in_channels=channels,
        out_channels=num_classes,
        bias=True,
        parameters=channels * num_classes + num_classes,
        macs=channels * num_classes,
    )


def _block(spec: SENetSpec, name: str, source: str, size: int, channels: int, width: int, stride: int) -> list[Layer]:
    half, squeezed = width // 2, width // spec.reduction
    reduce = _conv(f"{name}_1x1_reduce", source, size, channels, half, kernel=1)
    conv = _conv(f"{name}_3x3", reduce.name, size, half, width, kernel=3, stride=stride, groups=spec.groups)
    size_out = conv.out_size
    increase = _conv(f"{name}_1x1_increase", conv.name, size_out, width, width, kernel=1)
    pool = Layer(f"{name}_global_pool", "global_avg_pool", increase.name, 1, saved_values=width)
    down = _gate_conv(f"{name}_1x1_down", pool.name, width, squeezed)
    up = _gate_conv(f"{name}_1x1_up", down.name, squeezed, width)
    layers = [reduce, conv, increase, pool, down, up]
    shortcut = source
    values = width * size_out * size_out
    if channels != width:
        # Change (c) of the appendix; the authors' name says 1x1 also where the kernel is 3x3.
        kernel = 3 if stride == 2 else 1
        projection = _conv(f"{name}_1x1_proj", source, size, channels, width, kernel=kernel, stride=stride)
        # The normalised shortcut is only added, so backward does not need it.
        layers.append(dataclasses.replace(projection, saved_values=values))
        shortcut = projection.name
    inputs = f"{up.name}*{increase.name}+{shortcut}"
    layers.append(Layer(name, "scale_add_relu", inputs, size_out, out_channels=width, saved_values=values))
    return layers


def _conv(
    name: str,
    source: str,
    size: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
) -> Layer:
    """Return a convolution with its batch norm; backward needs the batch norm's input and its output after the ReLU."""
    padding = kernel // 2
    out_size = (size + 2 * padding - kernel) // stride + 1
    weights = out_channels * (in_channels // groups) * kernel * kernel
    return Layer(
        name,
        "conv",
        source,
        out_size,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        bias=False,
        parameters=weights + 2 * out_channels,
        buffers=2 * out_channels,
        macs=weights * out_size * out_size,
        saved_values=2 * out_channels * out_size * out_size,
    )


def _gate_conv(name: str, source: str, in_channels: int, out_channels: int) -> Layer:
    """Return a layer of the excitation: a 1x1 convolution with bias on the pooled map."""
    weights = in_channels * out_channels
    return Layer(
        name,
        "conv",
        source,
        1,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=1,
        stride=1,
        padding=0,
        groups=1,
        bias=True,
        parameters=weights + out_channels,
        macs=weights,
        saved_values=out_channels,
    )
