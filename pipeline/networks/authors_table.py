"""The layers of SENet-154 as its authors published them: SENet-154.prototxt of hujie-frank/SENet, one row a layer."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.networks.layers import Layer, Layers

TABLE_IMAGE_SIZE_PX = 224
"""Image size of the table's output sizes."""
_COMPARED = ("kind", "in_channels", "out_channels", "kernel", "stride", "padding", "groups", "bias", "out_size")

_BLOCK_PARTS = {
    "1x1_reduce": "conv1",
    "3x3": "conv2",
    "1x1_increase": "conv3",
    "global_pool": "se_module.pool",
    "1x1_down": "se_module.fc1",
    "1x1_up": "se_module.fc2",
    "1x1_proj": "downsample.0",
    None: "relu",
}
_PROTOTXT_PARTS = {ours: theirs for theirs, ours in _BLOCK_PARTS.items()}
_OTHERS = {
    "pool1/3x3_s2": "pool0",
    "pool5/7x7_s1": "avg_pool",
    "pool5/dropout_7x7_s1": "dropout",
    "classifier": "last_linear",
}


@dataclasses.dataclass(frozen=True)
class AuthorsLayer:
    """A row of the table: a `Layer` of the authors' kinds. A convolution without bias is one row with its batch norm
    and ReLU, the end of a block is one row (scale_add_relu)."""

    name: str
    kind: str
    inputs: str
    numbers: dict[str, Any]
    """Those fields of `Layer` that the kind has."""


def read_authors_table() -> tuple[AuthorsLayer, ...]:
    """Return the table in the order of the prototxt."""
    with Path(__file__).with_name("senet154_layers.csv").open(newline="") as file:
        return tuple(
            AuthorsLayer(
                row["name"],
                row["kind"],
                row["inputs"],
                {
                    name.removesuffix("_at_224"): text == "true" if name == "bias" else int(text)
                    for name, text in row.items()
                    if text and name not in ("name", "kind", "inputs")
                },
            )
            for row in csv.DictReader(file)
        )


def differences_from_authors(layers: Layers) -> list[str]:
    """Return every difference between a network's layers at 224 px and the table."""
    observed = {layer.name: layer for layer in _in_their_kinds(layers)}
    expected = {module_name(row.name): row for row in read_authors_table()}
    problems = [f"{name}: not in the authors' table" for name in observed if name not in expected]
    for name, row in expected.items():
        problems.extend(_row_differences(name, row, observed))
    return problems


def _in_their_kinds(layers: Layers) -> Iterator[Layer]:
    by_name = {layer.name: layer for layer in layers}
    for layer in layers:
        if layer.kind in ("conv", "fc") or layer.kind.startswith(("max_pool", "global_", "dropout")):
            yield layer
        above = by_name.get(layer.inputs[0])
        if (
            layer.kind == "relu"
            and above is not None
            and above.kind == "add"
            and by_name[above.inputs[0]].kind == "scale"
        ):
            yield dataclasses.replace(layer, kind="scale_add_relu")


def _row_differences(name: str, row: AuthorsLayer, observed: dict[str, Layer]) -> Iterator[str]:
    if name not in observed:
        yield f"{name}: missing ({row.name} of the authors' table)"
        return
    theirs: dict[str, Any] = {"kind": row.kind, **row.numbers}
    if row.kind == "ave_pool_ceil":
        # The authors' fixed 7x7 pooling, which at 224 px is the whole map.
        theirs = {"kind": "global_avg_pool", "out_size": 1}
    for field in _COMPARED:
        ours = getattr(observed[name], field)
        if field in theirs and theirs[field] != ours:
            yield f"{name}: {field} is {ours}, in the authors' table ({row.name}) {theirs[field]}"


def module_name(layer_name: str) -> str:
    """Return the name in our network of a layer of the prototxt: "conv3_1_1x1_proj" is "layer2.0.downsample.0"."""
    if stem := re.fullmatch(r"conv1_(\d)/3x3(_s2)?", layer_name):
        return f"layer0.conv{stem[1]}"
    if block := re.fullmatch(r"conv(\d)_(\d+)(?:_(.+))?", layer_name):
        return f"layer{int(block[1]) - 1}.{int(block[2]) - 1}.{_BLOCK_PARTS[block[3]]}"
    return _OTHERS[layer_name]


def prototxt_name(layer: Layer) -> str:
    """Return the name in the authors' prototxts of our convolution or classifier: the inverse of `module_name`."""
    if layer.kind == "fc":
        return "classifier"
    if layer.name.startswith(("conv", "inception")):
        module, _, gate = layer.name.partition(".se_module.")
        return (
            f"{module}_{_PROTOTXT_PARTS[f'se_module.{gate}']}"
            if gate
            else module.removesuffix(".conv").replace(".", "/")
        )
    if stem := re.fullmatch(r"layer0\.conv(\d)", layer.name):
        number = "" if layer.kernel == 7 else f"_{stem[1]}"
        return f"conv1{number}/{layer.kernel}x{layer.kernel}" + ("_s2" if layer.stride == 2 else "")
    block = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", layer.name)
    assert block is not None, layer.name
    return f"conv{int(block[1]) + 1}_{int(block[2]) + 1}_{_PROTOTXT_PARTS[block[3]]}"
