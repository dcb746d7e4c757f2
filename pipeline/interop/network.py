"""Recognise a network of the registry by the shapes of its convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.ground.errors import UserError
from pipeline.networks.layers import layer_table
from pipeline.networks.registry import NETWORKS

_SHOWN = 3
_SIMILAR = 0.5
"""Share of convolutions in common from which on a file is taken for a damaged one of that network."""

Shapes = Mapping[str, tuple[int, ...]]


def identify(shapes: Shapes, place: str) -> str:
    """Return the name of the network that has convolutions of these shapes, or nearly.

    Raises UserError naming the nearest if there is none.
    """
    found: Counter[tuple[int, ...]] = Counter(shape for shape in shapes.values() if len(shape) == 4)
    shares = {name: _share_in_common(found, _convolutions(name)) for name in NETWORKS}
    nearest = max(shares, key=lambda name: shares[name])
    if shares[nearest] >= _SIMILAR:
        return nearest
    known = f"what can be converted is {', '.join(NETWORKS)}"
    common = (found & _convolutions(nearest)).total()
    if common:
        raise UserError(
            f"{place}: another network: it has {found.total()} convolutions, of which {common} are also in {nearest}, "
            f"the nearest; {list_some(shapes)}; {known}"
        )
    raise UserError(f"{place}: no network of a known layout; {list_some(shapes)}; {known}")


def list_some(shapes: Shapes) -> str:
    """Describe the number of tensors and the first of them."""
    some = ", ".join(f"{name[:80]} {shape}" for name, shape in list(shapes.items())[:_SHOWN])
    return f"it holds {len(shapes)}, the first: {some}"


def _convolutions(name: str) -> Counter[tuple[int, ...]]:
    """Count the shapes of a network's convolutions."""
    shapes: Counter[tuple[int, ...]] = Counter()
    for layer in layer_table(name):
        if layer.kind == "conv":
            assert layer.groups is not None
            kernel = layer.kernel if isinstance(layer.kernel, tuple) else (layer.kernel or 1, layer.kernel or 1)
            shapes[layer.out_channels, layer.in_channels // layer.groups, *kernel] += 1
    return shapes


def _share_in_common(one: Counter[tuple[int, ...]], other: Counter[tuple[int, ...]]) -> float:
    return (one & other).total() / (one | other).total()
