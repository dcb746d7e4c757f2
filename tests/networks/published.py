"""The independent layer tables of the paper's networks: which they describe, and our names of their layers."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.networks.authors_table import module_name
from pipeline.networks.layers import IMAGES, Layer
from pipeline.networks.registry import NETWORKS

_ABLATIONS: dict[str, dict[str, Any]] = {
    "SE-nobias-r2": {"reduction": 2},
    "SE-nobias-r8": {"reduction": 8},
    "SE-nobias-r16": {},
    "SE-nobias-r32": {"reduction": 32},
    "SE-max": {"squeeze": "max"},
    "SE-relu": {"excitation": "relu"},
    "SE-tanh": {"excitation": "tanh"},
    "SE-stage2": {"stages": (2,)},
    "SE-stage4": {"stages": (4,)},
    "SE-PRE": {"integration": "pre"},
    "SE-Identity": {"integration": "identity"},
    "SE-3x3": {"integration": "3x3"},
    "NoSqueeze": {"squeeze": "none"},
}
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet-50": ("resnet50", {}),
    "SE-ResNet-50": ("se_resnet50", {}),
    "ResNet-101": ("resnet101", {}),
    "SE-ResNet-152": ("se_resnet152", {}),
    "ResNeXt-50-32x4d": ("resnext50_32x4d", {}),
    "SE-ResNeXt-50-32x4d": ("se_resnext50_32x4d", {}),
    **{f"ablation-{name}": ("se_resnet50", {"bias": False, **se}) for name, se in _ABLATIONS.items()},
}
"""Files by name, with the network and the block that they describe."""


def _of_resnet(name: str) -> str:
    if stem := re.fullmatch(r"conv1/7x7_s2(/bn)?(/relu)?", name):
        return f"layer0.{'relu' if stem[2] else 'bn' if stem[1] else 'conv'}1"
    if block := re.fullmatch(r"(conv\d_\d+)_(prob|scale|sum|1x1_down/relu)", name):
        parts = {"prob": "se_module.excitation", "1x1_down/relu": "se_module.relu"}
        return module_name(block[1]).replace("relu", parts.get(block[2], block[2]))
    base, bn, relu = re.fullmatch(r"(.*?)(/bn)?(/relu)?", name).groups()
    conv = {"pool5": "avg_pool"}.get(base) or module_name(base)
    if bn is None:
        return conv
    return conv.replace("downsample.0", "downsample.1").replace("conv", "relu" if relu else "bn")


NAMES: dict[str, Callable[[str], str]] = {"resnet": _of_resnet}
"""Our name of a layer of theirs, by family."""


def read_published(folder: Path, table: str) -> Iterator[Layer]:
    """Yield the rows of a table as ours would be: names, kinds, inputs and numbers, without costs."""
    family = NETWORKS[TABLES[table][0]].family
    ours = NAMES[family]
    with (folder / f"{table}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            inputs = tuple(ours(name) if name != "data" else IMAGES for name in re.split(r"[+*]", row["inputs"]))
            numbers = {
                name.removesuffix("_at_224"): text == "true" if name == "bias" else _number(text)
                for name, text in row.items()
                if text and name not in ("name", "kind", "inputs")
            }
            fields = {"in_channels": 0, "out_channels": 0} | numbers
            yield Layer(ours(row["name"]), row["kind"], inputs, **fields)


def _number(text: str) -> Any:
    return tuple(map(int, text.split("x"))) if "x" in text else int(text)
