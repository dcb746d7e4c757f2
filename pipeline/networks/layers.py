"""Layer tables: what a network computes for one image, layer by layer, traced and kept as data. Imports no torch."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.networks.registry import NETWORKS

IMAGES = "images"
"""Name of the network's input among the inputs of layers."""
TRACED_CLASSES = 1000
TABLES = Path(__file__).with_name("tables")
VARIANTS = Path(__file__).with_name("variants.csv")
"""Costs of ResNet-50 with the blocks of the paper's ablations."""
_INDEX_BYTES = 8

Pair = int | tuple[int, int]
"""One number for both sides, or height and width."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """An operation of a network on square maps. None if its kind has no such number."""

    name: str
    """The module's; of an operation that is none, `sum`, `scale` or `concat` in its module."""
    kind: str
    """conv, fc, bn, relu, sigmoid, tanh, max_pool_ceil, max_pool_floor, ave_pool_ceil, ave_pool_floor,
    ave_pool_exclude_pad, ave_pool_to_N, global_avg_pool, global_max_pool, concat, add, add_scaled_S (S times the first
    input, plus the second), shake_mix (the mean, in evaluation), scale (a map and its gates), shift (by a pixel to
    the right and down), channel_shuffle or dropout_P."""
    inputs: tuple[str, ...]
    """Names of layers, or `images`."""
    in_channels: int
    out_channels: int
    out_size: int
    kernel: Pair | None = None
    stride: int | None = None
    padding: Pair | None = None
    groups: int | None = None
    bias: bool | None = None
    parameters: int = 0
    """Learnable values."""
    buffers: int = 0
    """Running means and variances; PyTorch's batch counters are not among them."""
    macs: int = 0
    """Multiply-adds for one image, of convolutions and fully connected layers."""
    saved_values: int = 0
    """Values per image kept for backward, in the forward pass's precision, when PyTorch runs layer by layer: the
    output if anything needs it, and what the operation keeps beside."""
    saved_indices: int = 0
    """64-bit indices per image kept for backward."""

    @property
    def part(self) -> str:
        """The part of the network that it belongs to: the first part of its name."""
        return self.name.partition(".")[0]

    def activation_bytes(self, bytes_per_value: int) -> int:
        """Return the bytes per image kept for backward."""
        return self.saved_values * bytes_per_value + self.saved_indices * _INDEX_BYTES


POOLING = "avg_pool"
"""Name of the layer that averages the last map, in networks that have one."""
Layers = Sequence[Layer]
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Layer)}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Sums over the layers of a network, or of a part of it, for one image."""

    parameters: int
    buffers: int
    macs: int
    activation_bytes_float32: int
    """Kept from forward for backward."""
    activation_bytes_16bit: int
    """The same with maps in either 16-bit type."""

    @classmethod
    def of(cls, layers: Iterable[Layer]) -> Cost:
        """Add up the layers."""
        layers = tuple(layers)
        return cls(
            parameters=sum(layer.parameters for layer in layers),
            buffers=sum(layer.buffers for layer in layers),
            macs=sum(layer.macs for layer in layers),
            activation_bytes_float32=sum(layer.activation_bytes(4) for layer in layers),
            activation_bytes_16bit=sum(layer.activation_bytes(2) for layer in layers),
        )


def layer_table(name: str, num_classes: int = TRACED_CLASSES, image_size_px: int | None = None) -> tuple[Layer, ...]:
    """Return the layers of a network of the registry in the order of computation, for its own image size by default."""
    layers = _read(name)
    size = image_size_px or NETWORKS[name].image_size_px
    if size != NETWORKS[name].image_size_px:
        layers = _resized(layers, size)
    return layers if num_classes == TRACED_CLASSES else (*layers[:-1], _with_outputs(layers[-1], num_classes))


def variant_cost(title: str) -> tuple[int, float]:
    """Return parameters and GMAC of a network of the paper's ablations, by its title, as `ModelConfig` has it."""
    with VARIANTS.open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["network"] == title)
    return int(row["parameters"]), int(row["macs"]) / 1e9


def norms_of_convolutions(layers: Layers) -> dict[str, Layer]:
    """Return the batch norms by the name of the convolution before each that nothing else reads."""
    read = collections.Counter(name for layer in layers for name in layer.inputs)
    norms = {layer.inputs[0]: layer for layer in layers if layer.kind == "bn"}
    return {
        layer.name: norms[layer.name]
        for layer in layers
        if layer.kind == "conv" and layer.name in norms and read[layer.name] == 1
    }


def write_table(layers: Layers, path: Path) -> None:
    """Write a table as CSV. Left empty: defaults, and an input that is the layer of the row before."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_DEFAULTS)
        before = IMAGES
        for layer in layers:
            fields = {**vars(layer), "inputs": "" if layer.inputs == (before,) else "+".join(layer.inputs)}
            writer.writerow("" if value == _DEFAULTS[name] else _text(value) for name, value in fields.items())
            before = layer.name


@functools.cache
def _read(name: str) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    before = IMAGES
    with (TABLES / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name, kind, inputs = (row.pop(key) for key in ("name", "kind", "inputs"))
            numbers: dict[str, Any] = {key: _value(text) for key, text in row.items() if text}
            layers.append(Layer(name, kind, tuple(inputs.split("+")) if inputs else (before,), **numbers))
            before = name
    return tuple(layers)


def _resized(layers: Layers, image_size_px: int) -> tuple[Layer, ...]:
    """Return the table for another image size: the sizes are propagated, what grows with a map's area is scaled."""
    sizes = {IMAGES: image_size_px}
    found = []
    for layer in layers:
        size = sizes[layer.name] = _out_size(layer, sizes[layer.inputs[0]])
        scaled = {
            name: getattr(layer, name) * size**2 // layer.out_size**2
            for name in ("macs", "saved_values", "saved_indices")
        }
        found.append(dataclasses.replace(layer, out_size=size, **scaled))
    return tuple(found)


def _out_size(layer: Layer, in_size: int) -> int:
    if layer.kind.startswith("global_") or layer.kind == "fc":
        return 1
    if layer.kind.startswith("ave_pool_to_"):
        return int(layer.kind.rpartition("_")[2])
    if layer.kernel is None:
        return in_size
    assert layer.stride is not None
    # Of a kernel like 1x7 either side gives the same size.
    kernel, padding = (side if isinstance(side, int) else side[0] for side in (layer.kernel, layer.padding or 0))
    steps = (in_size + 2 * padding - kernel) / layer.stride
    return (math.ceil(steps) if layer.kind.endswith("_ceil") else math.floor(steps)) + 1


def _with_outputs(classifier: Layer, num_classes: int) -> Layer:
    weights = classifier.in_channels * num_classes
    return dataclasses.replace(classifier, out_channels=num_classes, parameters=weights + num_classes, macs=weights)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(text: str) -> int | bool | tuple[int, ...]:
    if text in ("true", "false"):
        return text == "true"
    return tuple(map(int, text.split("x"))) if "x" in text else int(text)
