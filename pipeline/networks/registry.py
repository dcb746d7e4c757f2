"""The networks by name: family, numbers and source. Imports no torch.

A row's family is a module of `pipeline.models`, whose `build` takes the row's numbers. Its layers, sizes and costs are
not computed from the numbers but traced (`pipeline.models.tracing`) and kept in the folder `tables`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

MaxPool = Literal["ceil", "padded"]
"""The first pooling, 3x3 with stride 2. The authors' is not padded and rounds up; some ports pad by 1 and round down,
which shifts every pooling window by one pixel up and to the left. Their weights reach their accuracy with it only."""
Integration = Literal["standard", "pre", "post", "identity", "3x3"]


@dataclasses.dataclass(frozen=True)
class SEBlock:
    """The squeeze-and-excitation block of a network; the recipe's `model.se` (`SEConfig`) explains the fields."""

    reduction: int = 16
    squeeze: Literal["average", "max", "none"] = "average"
    excitation: Literal["sigmoid", "tanh", "relu"] = "sigmoid"
    integration: Integration = "standard"
    stages: tuple[int, ...] | None = None
    bias: bool = True


BlockChoice = SEBlock | Literal["default"] | None
"""default: what the network's name says, the paper's block or none."""


@dataclasses.dataclass(frozen=True)
class NetworkRow:
    """A row of the registry."""

    name: str
    family: str
    """Module of `pipeline.models` that builds it."""
    numbers: dict[str, Any]
    """Keyword arguments of the family's `build`."""
    source: str
    has_se: bool = False
    """Whether the name stands for the network with the paper's default block."""
    stages: tuple[int, ...] = (2, 3, 4, 5)
    """Stages that may have blocks, in the paper's numbers."""
    integrations: tuple[Integration, ...] = ("standard",)
    """Places that a block may take."""
    max_pools: tuple[MaxPool, ...] = ("ceil",)
    image_size_px: int = 224
    """Side of the images that the network was made for."""
    size_multiple: int = 1
    """Sides of images must be multiples of it."""
    dropout: float = 0.0
    """Share of the features that is dropped at random in training, before the classifier."""


_BOTTLENECK: tuple[Integration, ...] = ("standard", "pre", "post", "identity", "3x3")
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnet(name: str, blocks: tuple[int, ...], source: str, *, has_se: bool = False, **changes: Any) -> NetworkRow:
    fields = {key: changes.pop(key) for key in ("image_size_px", "dropout") if key in changes}
    numbers = {"stem": (64,), "widths": (256, 512, 1024, 2048), "blocks": blocks, "groups": 1, "stride_in": "3x3"}
    stages = tuple(range(2, 2 + len(blocks)))
    pools: tuple[MaxPool, ...] = ("ceil", "padded")
    return NetworkRow(name, "resnet", numbers | changes, source, has_se, stages, _BOTTLENECK, pools, **fields)


def _appendix() -> Iterator[NetworkRow]:
    """Yield the networks that have the four changes of the paper's appendix."""
    changes: dict[str, Any] = {"stem": (64, 64, 128), "divisors": (2, 1), "projection_kernel": 3, "dropout": 0.2}
    yield _resnet(
        "senet154",
        _DEPTHS[152],
        "the paper's appendix; SENet-154.prototxt: 3 stem convolutions + 50 blocks x 3 + 1 classifier = 154",
        has_se=True,
        groups=64,
        **changes,
    )
    # With 16 groups the three stages have 2, 4 and 8 input channels a group, as the first three of SENet-154 have.
    small: dict[str, Any] = {"stem": (16, 16, 32), "widths": (64, 128, 256), "image_size_px": 32, "groups": 16}
    yield _resnet("senet_nano", (1, 2, 1), "SENet-154's blocks, small", has_se=True, **changes | small)


def _plain() -> Iterator[NetworkRow]:
    """Yield the networks that the paper puts its block into."""
    for depth in (50, 101, 152):
        source = f"KaimingHe/deep-residual-networks, ResNet-{depth}; the authors' SE-ResNet-{depth}.prototxt"
        yield _resnet(f"resnet{depth}", _DEPTHS[depth], source, divisors=(4, 4), stride_in="1x1")
    for depth in (50, 101):
        source = f"facebookresearch/ResNeXt; the authors' SE-ResNeXt-{depth}.prototxt"
        yield _resnet(f"resnext{depth}_32x4d", _DEPTHS[depth], source, divisors=(2, 2), groups=32)
    source = "the paper's appendix: what SENet-154 was made from by its changes (a) to (d)"
    yield _resnet("resnext152_64x4d", _DEPTHS[152], source, divisors=(1, 1), groups=64)
    small: dict[str, Any] = {"stem": (16,), "widths": (64, 128, 256), "image_size_px": 32}
    yield _resnet("resnet_nano", (1, 2, 1), "ResNet's blocks, small", divisors=(4, 4), stride_in="1x1", **small)


def _inceptions() -> Iterator[NetworkRow]:
    """Yield the Inception networks of Table 2."""
    modules = (
        ("3a", 64, (64, 64), (64, 96), "ave", 32),
        ("3b", 64, (64, 96), (64, 96), "ave", 64),
        ("3c", 0, (128, 160), (64, 96), "max", 0),
        ("4a", 224, (64, 96), (96, 128), "ave", 128),
        ("4b", 192, (96, 128), (96, 128), "ave", 128),
        ("4c", 160, (128, 160), (128, 160), "ave", 128),
        ("4d", 96, (128, 192), (160, 192), "ave", 128),
        ("4e", 0, (128, 192), (192, 256), "max", 0),
        ("5a", 352, (192, 320), (160, 224), "ave", 128),
        ("5b", 352, (192, 320), (192, 224), "max", 128),
    )
    numbers: dict[str, Any] = {"stem": (64, 64, 192), "modules": modules}
    source = "the authors' SE-BN-Inception.prototxt"
    yield NetworkRow("bn_inception", "bn_inception", numbers, source, stages=(3, 4, 5), size_multiple=32)
    small = (
        ("3a", 8, (8, 8), (8, 12), "ave", 4),
        ("3c", 0, (8, 16), (8, 12), "max", 0),
        ("5b", 32, (24, 40), (24, 28), "max", 16),
    )
    numbers = {"stem": (8, 8, 24), "modules": small}
    source = "BN-Inception's modules, small"
    yield NetworkRow(
        "bn_inception_nano", "bn_inception", numbers, source, stages=(3, 5), image_size_px=32, size_multiple=32
    )
    for name, numbers, source, size in (
        ("inception_resnet_v2", {"blocks": (10, 20, 10)}, "tensorflow/models, slim/nets/inception_resnet_v2.py", 299),
        ("inception_resnet_nano", {"blocks": (1, 1, 1), "divisor": 8}, "Inception-ResNet-v2's blocks, small", 96),
    ):
        stages = (5, 6, 7)
        yield NetworkRow(name, "inception_resnet", numbers, source, stages=stages, image_size_px=size, dropout=0.2)


def _others() -> Iterator[NetworkRow]:
    """Yield VGG-16 of Table 2 and the mobile networks of Table 3."""
    widths = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    numbers: dict[str, Any] = {"stages": widths, "hidden": 4096, "side": 7}
    source = '"Very Deep Convolutional Networks", configuration D; the paper\'s section 5.1'
    yield NetworkRow("vgg16_bn", "vgg", numbers, source, stages=(1, 2, 3, 4, 5), dropout=0.5)
    numbers = {"stages": ((16, 16), (32, 32), (64,)), "hidden": 64, "side": 4}
    yield NetworkRow("vgg_nano", "vgg", numbers, "VGG's layers, small", stages=(1, 2, 3), image_size_px=32, dropout=0.5)
    blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    source = '"MobileNets", Table 1'
    yield NetworkRow("mobilenet_v1", "mobilenet", {"stem": 32, "blocks": blocks}, source, stages=(1, 2, 3, 4, 5))
    numbers = {"stem": 16, "blocks": ((32, 1), (64, 2), (64, 1), (128, 2))}
    yield NetworkRow(
        "mobilenet_nano", "mobilenet", numbers, "MobileNet's blocks, small", stages=(1, 2, 3), image_size_px=32
    )
    numbers = {"stem": 24, "groups": 3, "stages": ((240, 4), (480, 8), (960, 4))}
    source = '"ShuffleNet", Table 1; megvii-model/ShuffleNet-Series, ShuffleNetV1'
    yield NetworkRow("shufflenet_v1_g3", "shufflenet", numbers, source, stages=(2, 3, 4))
    numbers = {"stem": 24, "groups": 3, "stages": ((48, 2), (96, 2))}
    yield NetworkRow(
        "shufflenet_nano", "shufflenet", numbers, "ShuffleNet's units, small", stages=(2, 3), image_size_px=32
    )


def _cifar() -> Iterator[NetworkRow]:
    """Yield the networks of Tables 4 and 5 that have pre-activation."""
    for name, widths, blocks, kernels, source in (
        ("preresnet110", (16, 32, 64), 18, (3, 3), "the pattern of KaimingHe/resnet-1k-layers; 1x1 shortcuts"),
        ("preresnet164", (64, 128, 256), 18, (1, 3, 1), "KaimingHe/resnet-1k-layers, resnet-pre-act.lua"),
        ("wrn16_8", (128, 256, 512), 2, (3, 3), "szagoruyko/wide-residual-networks, models/wide-resnet.lua"),
        ("preresnet_nano", (16, 32, 64), 1, (3, 3), "pre-activation ResNet's units, few"),
    ):
        numbers = {"stem": 16, "widths": widths, "blocks": (blocks,) * 3, "kernels": kernels}
        yield NetworkRow(name, "preresnet", numbers, source, stages=(1, 2, 3), image_size_px=32)


def _shake() -> Iterator[NetworkRow]:
    """Yield the Shake-Shake networks of Tables 4 and 5."""
    rows: tuple[tuple[str, int, tuple[int, ...], int, int | None, str], ...] = (
        ("shake_shake26_2x96d", 16, (96, 192, 384), 4, None, "xgastaldi/shake-shake, models/shakeshake.lua"),
        ("shake_even29_2x4x64d", 64, (256, 512, 1024), 3, 4, '"Shake-Shake regularization", section 3; ResNeXt-29'),
        ("shake_shake_nano", 16, (16, 32, 64), 1, None, "Shake-Shake's units, few"),
        ("shake_even_nano", 16, (32, 64), 1, 4, "Shake-Even's units, few"),
    )
    for name, stem, widths, blocks, groups, source in rows:
        numbers: dict[str, Any] = {"stem": stem, "widths": widths, "blocks": (blocks,) * len(widths)}
        numbers["groups"] = groups
        stages = tuple(range(1, 1 + len(widths)))
        yield NetworkRow(name, "shake", numbers, source, stages=stages, image_size_px=32)


def _rows() -> Iterator[NetworkRow]:
    yield from _appendix()
    for network in (*_plain(), *_inceptions(), *_others(), *_cifar(), *_shake()):
        yield network
        yield dataclasses.replace(network, name=f"se_{network.name}", has_se=True)


NETWORKS: Mapping[str, NetworkRow] = {network.name: network for network in _rows()}
"""The networks whose name ends in nano are for small images on a CPU."""


def block_of(name: str, se: BlockChoice) -> SEBlock | None:
    """Return the block of a network; without one that is described, the one that its name stands for."""
    if se == "default":
        return SEBlock() if NETWORKS[name].has_se else None
    return se


def spelled(name: str, se: BlockChoice) -> tuple[str, BlockChoice]:
    """Return the one spelling of a network: its name with or without `se_`, and the block unless the name says it."""
    block = block_of(name, se)
    if block is not None and block.stages is not None:
        stages = tuple(sorted(set(block.stages)))
        block = dataclasses.replace(block, stages=None if stages == NETWORKS[name].stages else stages)
        block = block if stages else None
    if (block is not None) != NETWORKS[name].has_se:
        name = _other_name(name) or name
    return name, "default" if block == block_of(name, "default") else block


def network_problem(name: str, se: BlockChoice, *, stride_in_3x3: bool) -> str | None:
    """Return the error for a network that cannot be built, as `key: what must hold`, or None."""
    network, block = NETWORKS[name], block_of(name, se)
    if stride_in_3x3 and network.numbers.get("stride_in") != "1x1":
        return f"stride_in_3x3: only a network with strides in 1x1 convolutions has the choice (given with {name})"
    if block is None:
        return None
    if block.integration not in network.integrations:
        return (
            f"se.integration: must be one of {', '.join(network.integrations)} for {name} (given {block.integration})"
        )
    if unknown := [stage for stage in block.stages or () if stage not in network.stages]:
        return f"se.stages: {name} has the stages {', '.join(map(str, network.stages))} (given {unknown[0]})"
    return None


def _other_name(name: str) -> str | None:
    """Return the name of the same network with the block, or without it; None if it has none."""
    other = name.removeprefix("se_") if name.startswith("se_") else f"se_{name}"
    return other if other in NETWORKS else None
