"""Convert our weight files to formats of other software."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from pipeline.config.network import ModelConfig
from pipeline.ground.errors import UserError
from pipeline.interop import caffe
from pipeline.interop.caffemodel import write_caffemodel
from pipeline.interop.conversion import to_theirs
from pipeline.interop.importing import Imported, check_destination, read_foreign
from pipeline.interop.layout import layouts_of
from pipeline.models.weights import save_weights
from pipeline.store.file import replacing

_SUFFIXES = {"onnx": (".onnx",), "caffe": (".caffemodel",)}


def export_weights(source: Path, destination: Path, layout: str) -> Imported:
    """Convert our weight file `source` to `destination`, which must not exist, and return its content.

    `layout` is one of named tensors, as .pth or .safetensors, or caffe, as .caffemodel, or onnx, as .onnx. Raises
    UserError if a path or the content is wrong, or if the layout's software has no network that computes the same.
    """
    suffixes = _SUFFIXES.get(layout, (".pth", ".safetensors"))
    if destination.suffix not in suffixes:
        raise UserError(f"{destination}: must end in {' or '.join(suffixes)}, for --layout {layout}")
    check_destination(destination)
    read = read_foreign(source, "ours")
    name = read.network.name
    if layout == "onnx":
        # Imported here, since nothing else needs the exporter's packages.
        from pipeline.interop.onnx_graph import export_onnx

        export_onnx(read, destination)
        return read
    _check_target(source, read.network, layout)
    if layout == "caffe":
        write_caffemodel(destination, name, caffe.to_layers(read.tensors, name, read.preprocessing))
        return read
    named = to_theirs(read.tensors, layouts_of(name)[layout], name)
    if destination.suffix == ".safetensors":
        said = read.preprocessing.metadata() if read.preprocessing else {}
        save_weights(destination, named, {"format": "pt", **said})
    else:
        # Through memory: on a full disk torch.save raises an error of its own kind.
        content = io.BytesIO()
        torch.save(named, content)
        with replacing(destination) as temporary:
            temporary.write_bytes(content.getbuffer())
    return read


def _check_target(source: Path, network: ModelConfig, name: str) -> None:
    """Raise UserError if a layout has no network that computes the same."""
    strides = {
        layout.name: "stride_in_3x3" in layout.entries(network.name)
        for layout in layouts_of(network.name).values()
        if layout.name != "ours" and not layout.obstacle
    }
    if network.name in caffe.PUBLISHED:
        strides["caffe"] = False
    if network.se != "default":
        strides = {}
    able = [layout for layout, is_3x3 in strides.items() if is_3x3 == network.stride_in_3x3]
    if name in able:
        return
    reason = f"has no {network.title}"
    if name in strides:
        ours, theirs = ("3x3" if is_3x3 else "first 1x1" for is_3x3 in (network.stride_in_3x3, strides[name]))
        reason = f"its {network.name} has the stride in the {theirs} convolution, and these weights in the {ours}"
    raise UserError(f"{source}: --layout {name}: {reason}; these can be exported as {', '.join([*able, 'onnx'])}")
