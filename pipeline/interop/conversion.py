"""Tensors of a layout as ours, and ours as a layout's: names, biases, the order of colours, shapes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.interop.layout import CLASSIFIERS, Layout
from pipeline.models.network import HEAD
from pipeline.networks.layers import IMAGES, layer_table, norms_of_convolutions

Tensors = dict[str, torch.Tensor]


def to_ours(tensors: Mapping[str, torch.Tensor], layout: Layout, network: str) -> Tensors:
    """Return tensors of a layout as ours; those of unknown names stay."""
    layers = layer_table(network)
    ours = dict.fromkeys(CLASSIFIERS, HEAD) | {theirs: own for own, theirs in layout.naming(layers).items()}
    found = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        found[f"{ours.get(module, module)}.{kind}" if module else name] = tensor
    for conv, norm in norms_of_convolutions(layers).items():
        bias, mean = found.get(f"{conv}.bias"), found.get(f"{norm.name}.running_mean")
        if bias is not None and mean is not None and bias.shape == mean.shape:
            # What a batch norm subtracts is the mean behind the bias.
            found[f"{norm.name}.running_mean"] = (mean.double() - bias.double()).to(mean.dtype)
            del found[f"{conv}.bias"]
    for layer in layers:
        weight = found.get(f"{layer.name}.weight")
        if weight is None:
            continue
        if layer.kind == "fc" and weight.dim() == 4:
            found[f"{layer.name}.weight"] = weight.flatten(1)
        if layout.is_bgr and layer.inputs == (IMAGES,) and weight.dim() == 4:
            found[f"{layer.name}.weight"] = weight.flip(1)
    return found


def to_theirs(tensors: Mapping[str, torch.Tensor], layout: Layout, network: str) -> Tensors:
    """Return our tensors as a layout's: what their network's `load_state_dict` takes."""
    layers = layer_table(network)
    changed = dict(tensors)
    if layout.has_conv_biases:
        norms = norms_of_convolutions(layers)
        changed |= {f"{conv}.bias": torch.zeros(norm.out_channels) for conv, norm in norms.items()}
    if layout.is_bgr:
        changed |= {
            f"{layer.name}.weight": tensors[f"{layer.name}.weight"].flip(1)
            for layer in layers
            if layer.inputs == (IMAGES,)
        }
    if layout.has_conv_fc:
        channels, side = next((layer.out_channels, layer.out_size) for layer in layers[::-1] if layer.out_size > 1)
        for layer in layers:
            if layer.kind == "fc" and layer.name != HEAD:
                kernel = side if layer.in_channels == channels * side**2 else 1
                weight = tensors[f"{layer.name}.weight"]
                changed[f"{layer.name}.weight"] = weight.reshape(len(weight), -1, kernel, kernel)
    names = layout.naming(layers)
    renamed = {}
    for name, tensor in changed.items():
        module, _, kind = name.rpartition(".")
        renamed[f"{names[module]}.{kind}"] = tensor
    return renamed
