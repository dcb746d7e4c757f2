"""Recognise a network by the names and shapes of its layers."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.ground.errors import UserError
from pipeline.networks.spec import SPECS, SENetSpec, layer_table

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_CAFFE_BLOCK = re.compile(r"conv(\d+)_(\d+)_1x1_reduce$")
_DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_SHOWN = 3

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Network:
    """The visible features of a residual network; zeros if unknown."""

    blocks: tuple[int, ...]
    stem_kernel: int
    groups: int
    """Groups of the 3x3 convolution in the first block."""
    has_gates: bool

    def specs(self) -> list[SENetSpec]:
        """Return the registered networks with these features."""
        if self.stem_kernel != 3 or not self.has_gates:
            return []
        return [spec for spec in SPECS.values() if (spec.blocks, spec.groups) == (self.blocks, self.groups)]

    def sentence(self) -> str:
        """Describe the network, by its usual name and its features."""
        name = "ResNeXt" if self.groups > 1 else "ResNet"
        seen = ", ".join(map(str, self.blocks))
        return (
            f"{'SE-' if self.has_gates else ''}{name}-{_DEPTHS.get(self.blocks, '?')} ({seen} blocks, 3x3 convolutions "
            f"in {self.groups} groups, {self.stem_kernel}x{self.stem_kernel} stem, "
            f"{'with' if self.has_gates else 'no'} squeeze-and-excitation)"
        )


def observe(shapes: Shapes) -> Network:
    """Return the network of named tensors, in our layout or any that numbers stages and blocks as torchvision does."""
    blocks = _count(_BLOCK.match(name) for name in shapes)
    stem = next((shape[2] for name, shape in shapes.items() if len(shape) == 4 and not _BLOCK.match(name)), 0)
    reduce, conv = shapes.get("layer1.0.conv1.weight", ()), shapes.get("layer1.0.conv2.weight", ())
    groups = reduce[0] // conv[1] if len(reduce) == len(conv) == 4 and conv[1] else 0
    return Network(blocks, stem, groups, any(".se_module." in name or ".se." in name for name in shapes))


def observe_caffe(shapes: Shapes) -> Network:
    """Return the network of a Caffe file's layers, by the shapes of their first blobs."""
    blocks = _count(_CAFFE_BLOCK.match(name) for name in shapes)
    stem = next((shape[-1] for shape in shapes.values() if len(shape) == 4), 0)
    reduce, conv = shapes.get("conv2_1_1x1_reduce", ()), shapes.get("conv2_1_3x3", ())
    groups = reduce[0] // conv[1] if len(reduce) == len(conv) == 4 and conv[1] else 0
    return Network(blocks, stem, groups, any(name.endswith("_1x1_up") for name in shapes))


def identify(network: Network, shapes: Shapes, place: str) -> SENetSpec:
    """Return the registered network with these features, or of several the one with the most matching shapes.

    Raises UserError describing the features if there is none.
    """
    if specs := network.specs():
        return max(specs, key=lambda spec: _count_shapes(spec, shapes))
    known = ", ".join(SPECS)
    if network.blocks:
        raise UserError(f"{place}: another network: {network.sentence()}; what can be converted is {known}")
    raise UserError(f"{place}: no network of a known layout; {list_some(shapes)}; what can be converted is {known}")


def list_some(shapes: Shapes) -> str:
    """Describe the number of tensors and the first of them."""
    some = ", ".join(f"{name[:80]} {shape}" for name, shape in list(shapes.items())[:_SHOWN])
    return f"it holds {len(shapes)}, the first: {some}"


def _count_shapes(spec: SENetSpec, shapes: Shapes) -> int:
    """Count the network's convolutions whose shapes are among the given ones."""
    convolutions: Counter[tuple[int | None, ...]] = Counter(
        (row.out_channels, row.in_channels // (row.groups or 1), row.kernel, row.kernel)
        for row in layer_table(spec, 1, 224)
        if row.kind == "conv" and row.in_channels is not None
    )
    return (convolutions & Counter(shapes.values())).total()


def _count(matches: Iterable[re.Match[str] | None]) -> tuple[int, ...]:
    """Count the blocks of each stage, in the stages' order."""
    found: dict[int, set[int]] = {}
    for match in matches:
        if match:
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(found[stage]) for stage in sorted(found))
