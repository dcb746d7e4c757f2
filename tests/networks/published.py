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
    "BN-Inception": ("bn_inception", {}),
    "SE-BN-Inception": ("se_bn_inception", {}),
    "Inception-ResNet-v2-slim": ("inception_resnet_v2", {}),
    "SE-Inception-ResNet-v2-slim": ("se_inception_resnet_v2", {}),
    "VGG-16-BN": ("vgg16_bn", {}),
    "SE-VGG-16-BN": ("se_vgg16_bn", {}),
    "MobileNet-1.0-224": ("mobilenet_v1", {}),
    "SE-MobileNet-1.0-224": ("se_mobilenet_v1", {}),
    "ShuffleNet-1x-g3": ("shufflenet_v1_g3", {}),
    "SE-ShuffleNet-1x-g3": ("se_shufflenet_v1_g3", {}),
    "CIFAR10-preResNet-110": ("preresnet110", {}),
    "SE-CIFAR10-preResNet-110": ("se_preresnet110", {}),
    "SE-CIFAR100-preResNet-110": ("se_preresnet110", {}),
    "CIFAR10-preResNet-164": ("preresnet164", {}),
    "SE-CIFAR10-preResNet-164": ("se_preresnet164", {}),
    "CIFAR100-preResNet-164": ("preresnet164", {}),
    "CIFAR10-WRN-16-8": ("wrn16_8", {}),
    "SE-CIFAR10-WRN-16-8": ("se_wrn16_8", {}),
    "CIFAR100-WRN-16-8": ("wrn16_8", {}),
    "CIFAR10-ShakeShake-26-2x96d": ("shake_shake26_2x96d", {}),
    "SE-CIFAR10-ShakeShake-26-2x96d": ("se_shake_shake26_2x96d", {}),
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


_GATES = {
    "global_pool": "se_module.pool",
    "1x1_down": "se_module.fc1",
    "1x1_down/relu": "se_module.relu",
    "1x1_up": "se_module.fc2",
    "prob": "se_module.excitation",
    "scale": "scale",
}
_ENDS = {
    **dict.fromkeys(("pool", "pool5", "pool5/7x7_s1", "pool6"), "avg_pool"),
    **dict.fromkeys(("classifier", "fc7", "fc8", "fc"), "last_linear"),
    "pool1/3x3_s2": "pool1",
    "pool2/3x3_s2": "pool2",
}


def _of_units(name: str, block: Callable[[str], str] = lambda name: name, unit: str = "") -> str:
    """The name in a network of units of a convolution, batch norm and ReLU; `block` is the name of a block of ours."""
    gate = re.fullmatch(rf"(.+?)_({'|'.join(_GATES)})", name)
    if gate:
        return f"{block(gate[1])}.{_GATES[gate[2]]}"
    base, bn, relu = re.fullmatch(r"(.*?)(/bn)?(/relu)?", name).groups()
    first, _, inner = base.partition("/")
    place = ".".join(filter(None, (block(first), inner))) + unit
    if inner in ("concat", "pool", "pool/3x3_s2", "shuffle", "sum"):
        return place.removesuffix(".pool/3x3_s2") + (".pool" if inner == "pool/3x3_s2" else "")
    return f"{place}.{'relu' if relu else 'bn' if bn else 'conv'}"


def _of_bn_inception(name: str) -> str:
    return _ENDS.get(name) or _of_units(name)


def _of_mobilenet(name: str) -> str:
    return _ENDS.get(name) or _of_units(name)


def _of_vgg(name: str) -> str:
    if other := re.fullmatch(r"(pool\d|drop\d|fc[67])(/relu)?", name):
        return f"relu{name[2]}" if other[2] else name
    return _ENDS.get(name) or _of_units(name, lambda block: re.sub(r"_(\d)", _counted, block), ".unit")


def _of_shufflenet(name: str) -> str:
    if name == "pool1":
        return name
    if re.fullmatch(r"stage\d_\d", name):
        return f"{re.sub(r'_(.)', _counted, name)}.relu"
    return _ENDS.get(name) or _of_units(name, lambda block: re.sub(r"_(\d)", _counted, block))


_THREE = {"b2_1x1": "branch2.0", "b2_3x3a": "branch2.1", "b2_3x3b": "branch2.2"}
_BRANCHES: dict[str, dict[str, str]] = {
    "mixed_5b": {"b0": "branch0", "b1_5x5": "branch1.1", **_THREE, "b3_pool": "branch3.0", "b3_1x1": "branch3.1"},
    "block35": {"b1_3x3": "branch1.1", **_THREE},
    "mixed_6a": {"b0_3x3_s2": "branch0", "b1_3x3": "branch1.1", "b1_3x3_s2": "branch1.2", "pool": "branch2"},
    "block17": {"b1_1x7": "branch1.1", "b1_7x1": "branch1.2"},
    "mixed_7a": {
        "b0_1x1": "branch0.0",
        "b0_3x3_s2": "branch0.1",
        "b1_3x3_s2": "branch1.1",
        "b2_1x1": "branch2.0",
        "b2_3x3": "branch2.1",
        "b2_3x3_s2": "branch2.2",
        "pool": "branch3",
    },
    "block8": {"b1_1x3": "branch1.1", "b1_3x1": "branch1.2"},
}


def _of_inception_resnet(name: str) -> str:
    if name.startswith("maxpool") or name == "dropout":
        return name
    block, _, inner = name.partition("/")
    if block.startswith(("mixed", "block")) and (residual := re.fullmatch(r"(block\d+_\d+|mixed_..)(_sum)?", block)):
        base, _, rest = inner.partition("/")
        own = {"b0_1x1": "branch0", "b1_1x1": "branch1.0"} | _BRANCHES[
            residual[1] if block.startswith("mixed") else residual[1].rpartition("_")[0]
        ]
        own |= {"concat": "concat", "1x1_linear": "conv2d", "": "relu" if block.startswith("block") else "concat"}
        place = f"{_residual_block(residual[1])}.{'sum' if residual[2] else own[base]}"
        is_unit = base.startswith("b") and base != "b3_pool"
        return f"{place}.{rest.rpartition('/')[2] or 'conv'}" if is_unit else place
    return _ENDS.get(name) or _of_units(name, _residual_block)


def _residual_block(name: str) -> str:
    stage, _, number = name.rpartition("_")
    if name == "block8_10":
        return "block8"
    repeats = {"block35": "repeat", "block17": "repeat_1", "block8": "repeat_2"}
    return f"{repeats[stage]}.{int(number) - 1}" if stage in repeats else name


def _counted(match: re.Match[str]) -> str:
    """One less, behind a dot: they count from 1."""
    return f".{int(match[1]) - 1}"


def _of_preresnet(name: str) -> str:
    ends = {"conv0": "layer0", "bn_last": "bn", "relu_last": "relu", **_ENDS}
    if name in ends:
        return ends[name]
    stage, number, rest = re.fullmatch(r"stage(\d)_(\d+)[_/]?(.*)", name).groups()
    inner = _GATES.get(rest) or {"proj": "downsample", "": "sum"}.get(rest, rest)
    return f"layer{stage}.{int(number) - 1}.{inner}"


def _of_shake(name: str) -> str:
    """Its three ReLUs of one map are ours once; its subsampling is the stride of our convolution behind it."""
    ends = {"conv0": "layer0.conv", "conv0/bn": "layer0.bn", "relu_last": "relu", **_ENDS}
    if name in ends:
        return ends[name]
    stage, number, rest = re.fullmatch(r"stage(\d)_(\d+)[_/]?(.*)", name).groups()
    unit = f"layer{stage}.{int(number) - 1}"
    if branch := re.fullmatch(r"b(\d)/conv(\d)(?:/(bn))?(?:/(relu))?", rest):
        return f"{unit}.branch{branch[1]}.{int(branch[2]) - 1}.{branch[4] or branch[3] or 'conv'}"
    parts = dict.fromkeys(("b1/relu1", "b2/relu1", "sc_relu"), "relu")
    parts |= {"mix": "mixing", "": "sum", "sc_cat": "downsample.concat", "sc_bn": "downsample.bn"}
    parts |= {"sc_path1": "relu", "sc_path2": "downsample.path2.0"}
    parts |= {"sc_conv1": "downsample.path1.0", "sc_conv2": "downsample.path2.1"}
    return f"{unit}.{_GATES.get(rest) or parts[rest]}"


NAMES: dict[str, Callable[[str], str]] = {
    "resnet": _of_resnet,
    "bn_inception": _of_bn_inception,
    "inception_resnet": _of_inception_resnet,
    "vgg": _of_vgg,
    "mobilenet": _of_mobilenet,
    "shufflenet": _of_shufflenet,
    "preresnet": _of_preresnet,
    "shake": _of_shake,
}
"""Our name of a layer of theirs, by family."""


def classes_of(table: str) -> int:
    """The classes of the network that a table describes."""
    found = re.search(r"CIFAR(\d+)", table)
    return int(found[1]) if found else 1000


def read_published(folder: Path, table: str) -> Iterator[Layer]:
    """Yield the rows of a table as ours would be: names, kinds, inputs and numbers, without costs."""
    seen: set[str] = set()
    for layer in _rows(folder, table):
        if layer.name not in seen:
            yield layer
        seen.add(layer.name)


def _rows(folder: Path, table: str) -> Iterator[Layer]:
    """Yield every row. Of a subsampling there remains the shift before it: the convolution behind it has its stride."""
    subsampled: dict[str, int] = {}
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
            if subsampling := re.fullmatch(r"subsample_s(\d)_offset\d(_zero_pad)?", row["kind"]):
                subsampled[row["name"]] = int(subsampling[1])
                row["kind"], fields["out_size"] = "shift", 0
            elif row["inputs"] in subsampled:
                fields["stride"] = subsampled[row["inputs"]]
            yield Layer(ours(row["name"]), row["kind"], inputs, **fields)


def _number(text: str) -> Any:
    return tuple(map(int, text.split("x"))) if "x" in text else int(text)
