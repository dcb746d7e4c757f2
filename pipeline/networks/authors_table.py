"""The layers of SENet-154 as its authors published them: SENet-154.prototxt of hujie-frank/SENet, one row a layer."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from pipeline.networks.spec import Layer

TABLE_IMAGE_SIZE_PX = 224
"""Image size of the table's output sizes."""

_BLOCK_PARTS = {
    "1x1_reduce": "conv1",
    "3x3": "conv2",
    "1x1_increase": "conv3",
    "global_pool": "se_module.pool",
    "1x1_down": "se_module.fc1",
    "1x1_up": "se_module.fc2",
    "1x1_proj": "downsample.0",
}
_OTHERS = {
    "pool1/3x3_s2": "pool0",
    "pool5/7x7_s1": "avg_pool",
    "pool5/dropout_7x7_s1": "dropout",
    "classifier": "last_linear",
}


def read_authors_table() -> tuple[Layer, ...]:
    """Return the table in the order of the prototxt; the last pooling and dropout have kinds of their own in it."""
    with Path(__file__).with_name("senet154_layers.csv").open(newline="") as file:
        return tuple(
            Layer(
                name=row["name"],
                kind=row["kind"],
                inputs=row["inputs"],
                out_size=int(row["out_size_at_224"]),
                in_channels=_number(row["in_channels"]),
                out_channels=_number(row["out_channels"]),
                kernel=_number(row["kernel"]),
                stride=_number(row["stride"]),
                padding=_number(row["padding"]),
                groups=_number(row["groups"]),
                bias={"true": True, "false": False, "": None}[row["bias"]],
            )
            for row in csv.DictReader(file)
        )


def module_name(layer_name: str) -> str:
    """Return the name in our network of a layer of the prototxt: "conv3_1_1x1_proj" is "layer2.0.downsample.0"."""
    if stem := re.fullmatch(r"conv1_(\d)/3x3(_s2)?", layer_name):
        return f"layer0.conv{stem[1]}"
    if block := re.fullmatch(r"conv(\d)_(\d+)(?:_(.+))?", layer_name):
        part = f".{_BLOCK_PARTS[block[3]]}" if block[3] else ""
        return f"layer{int(block[1]) - 1}.{int(block[2]) - 1}{part}"
    return _OTHERS[layer_name]


def _number(text: str) -> int | None:
    return int(text) if text else None
