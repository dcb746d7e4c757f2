"""The layers of a network as executed, recorded by hooks on its modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from pipeline.models.senet import SEBottleneck, SENet
from pipeline.networks.authors_table import TABLE_IMAGE_SIZE_PX, module_name, read_authors_table
from pipeline.networks.spec import Layer

_COMPARED = ("kind", "in_channels", "out_channels", "kernel", "stride", "padding", "groups", "bias", "out_size")


def observe_layers(model: SENet, image_size_px: int) -> dict[str, Layer]:
    """Return each layer that a square image passes, by module name, in the order of the calls.

    Rows are in the terms of `spec.Layer`; a global pooling's kernel is the map that it covers. The image passes as an
    empty batch: all sizes are computed but no values, so weights need not be set yet.
    """
    observed: dict[str, Layer] = {}
    handles = [
        module.register_forward_hook(_observer(name, observed))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d | nn.Dropout | nn.Linear | SEBottleneck)
    ]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            device = next(model.parameters()).device
            model(torch.empty(0, 3, image_size_px, image_size_px, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return observed


def differences_from_authors(model: SENet) -> list[str]:
    """Return every difference between a network and the authors' table of SENet-154."""
    observed = observe_layers(model, TABLE_IMAGE_SIZE_PX)
    expected = {module_name(row.name): row for row in read_authors_table()}
    problems = [f"{name}: not in the authors' table" for name in observed if name not in expected]
    for name, row in expected.items():
        problems.extend(_row_differences(name, row, observed))
    return problems


def _row_differences(name: str, row: Layer, observed: Mapping[str, Layer]) -> Iterator[str]:
    if name not in observed:
        yield f"{name}: missing ({row.name} of the authors' table)"
        return
    layer = observed[name]
    if row.kind == "ave_pool_ceil":
        # The authors' fixed 7x7 pooling, which at 224 px is the whole map.
        row = dataclasses.replace(row, kind="global_avg_pool", stride=None, padding=None)
    elif row.kind == "global_avg_pool":
        layer = dataclasses.replace(layer, kernel=None)
    for field in _COMPARED:
        theirs, ours = getattr(row, field), getattr(layer, field)
        if theirs is not None and theirs != ours:
            yield f"{name}: {field} is {ours}, in the authors' table ({row.name}) {theirs}"


def _observer(
    name: str, observed: dict[str, Layer]
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert name not in observed, f"{name} is called twice"
        observed[name] = _describe(name, module, inputs[0], output)

    return hook


def _describe(name: str, module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> Layer:
    out_size = _side(output.shape[2:]) if output.dim() == 4 else 1
    plain = Layer(name, "", "", out_size)
    match module:
        case nn.Conv2d():
            return dataclasses.replace(
                plain,
                kind="conv",
                in_channels=x.shape[1],
                out_channels=output.shape[1],
                kernel=_side(module.kernel_size),
                stride=_side(module.stride),
                padding=_side(module.padding),
                groups=module.groups,
                bias=module.bias is not None,
                macs=module.weight.numel() * out_size * out_size,
            )
        case nn.Linear():
            return dataclasses.replace(
                plain,
                kind="fc",
                in_channels=x.shape[1],
                out_channels=output.shape[1],
                bias=module.bias is not None,
                macs=module.weight.numel(),
            )
        case nn.MaxPool2d():
            kind = "max_pool_ceil" if module.ceil_mode else "max_pool"
            return dataclasses.replace(
                plain,
                kind=kind,
                kernel=_side(module.kernel_size),
                stride=_side(module.stride),
                padding=_side(module.padding),
            )
        case nn.AdaptiveAvgPool2d():
            assert out_size == 1, f"{name} is not a global pooling"
            return dataclasses.replace(plain, kind="global_avg_pool", kernel=_side(x.shape[2:]))
        case nn.Dropout():
            return dataclasses.replace(plain, kind=f"dropout_{module.p:g}")
        case _:
            return dataclasses.replace(plain, kind="scale_add_relu", out_channels=output.shape[1])


def _side(size: int | str | Sequence[int]) -> int:
    """Return the side of a square given as one number or as height and width."""
    if isinstance(size, int):
        return size
    height, width = map(int, size)
    assert height == width, size
    return height
