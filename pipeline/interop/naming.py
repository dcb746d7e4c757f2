"""Names that other software gives to the modules with tensors of a network: theirs by ours, from its layer table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.models.network import HEAD
from pipeline.networks.layers import Layer

Naming = Callable[[Sequence[Layer]], dict[str, str]]

_WITH_TENSORS = ("conv", "bn", "fc")
_LUA_PARTS = {
    "conv1": "0.0.0.0",
    "bn1": "0.0.0.1",
    "conv2": "0.0.0.3",
    "bn2": "0.0.0.4",
    "conv3": "0.0.1",
    "bn3": "0.0.2",
    "downsample.0": "0.1.0",
    "downsample.1": "0.1.1",
}


def same(layers: Sequence[Layer]) -> dict[str, str]:
    """Return our own names, which Cadene's SE networks and timm's legacy ones have too."""
    return {layer.name: layer.name for layer in layers if layer.kind in _WITH_TENSORS}


def with_classifier(name: str) -> Naming:
    """Return our own names but for the classifier's."""
    return lambda layers: {**same(layers), HEAD: name}


def resnet(classifier: str) -> Naming:
    """Return torchvision's and timm's names of ResNets; a stem of several convolutions is a Sequential, `conv1`."""

    def name(own: str, depth: int) -> str:
        if stem := re.fullmatch(r"layer0\.(conv|bn)(\d)", own):
            kind, number = stem[1], int(stem[2])
            if depth == 1 or (kind, number) == ("bn", depth):
                return f"{kind}1"
            # Convolution, batch norm and ReLU take a place each.
            return f"conv1.{3 * (number - 1) + (kind == 'bn')}"
        return classifier if own == HEAD else own.replace(".se_module.", ".se.")

    def names(layers: Sequence[Layer]) -> dict[str, str]:
        depth = sum(layer.name.startswith("layer0.conv") for layer in layers)
        return {own: name(own, depth) for own in same(layers)}

    return names


def lua_resnext(layers: Sequence[Layer]) -> dict[str, str]:
    """Return Cadene's names of a ResNeXt converted from Lua Torch: places in nested Sequentials."""
    names = {"layer0.conv1": "features.0", "layer0.bn1": "features.1"}
    for own in same(layers):
        if block := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", own):
            names[own] = f"features.{int(block[1]) + 3}.{block[2]}.{_LUA_PARTS[block[3]]}"
    return names | {HEAD: HEAD}


def bn_inception(layers: Sequence[Layer]) -> dict[str, str]:
    """Return Cadene's names of BN-Inception, from the Caffe layers' names."""
    names = {}
    for own in same(layers):
        if unit := re.fullmatch(r"(.+)\.(.+)\.(conv|bn)", own):
            inner = re.sub(r"double3x3_?(\w+)", _double, unit[2])
            names[own] = f"{unit[1]}_{inner}" + ("_bn" if unit[3] == "bn" else "")
    return names | {HEAD: HEAD}


def _double(match: re.Match[str]) -> str:
    return f"double_3x3_{ {'a': '1', 'b': '2'}.get(match[1], match[1]) }"


def vgg(features: str, *fully_connected: str) -> Naming:
    """Return the names of a VGG that has its layers up to the first fully connected one in a Sequential `features`."""

    def names(layers: Sequence[Layer]) -> dict[str, str]:
        places = {layer.name: f"{features}.{place}" for place, layer in enumerate(layers)}
        classifier = (layer.name for layer in layers if layer.kind == "fc")
        return {own: places[own] for own in same(layers)} | dict(zip(classifier, fully_connected, strict=True))

    return names
