"""Convert our weight files to formats of other software."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from pipeline.ground.errors import UserError
from pipeline.interop.conversion import to_theirs
from pipeline.interop.importing import Imported, check_destination, read_foreign
from pipeline.interop.layout import Layout, layouts_of
from pipeline.models.weights import save_weights
from pipeline.store.file import replacing


def export_weights(source: Path, destination: Path, layout: str) -> Imported:
    """Convert our weight file `source` to `destination`, which must not exist, and return its content.

    `layout` is one of named tensors, as .pth or .safetensors, or onnx, as .onnx. Raises UserError if a path or the
    content is wrong, or if the layout's software has no network that computes the same.
    """
    suffixes = (".onnx",) if layout == "onnx" else (".pth", ".safetensors")
    if destination.suffix not in suffixes:
        raise UserError(f"{destination}: must end in {' or '.join(suffixes)}, for --layout {layout}")
    check_destination(destination)
    read = read_foreign(source, "ours")
    if layout == "onnx":
        # Imported here, since nothing else needs the exporter's packages.
        from pipeline.interop.onnx_graph import export_onnx

        export_onnx(read, destination)
        return read
    named = to_theirs(read.tensors, _target(source, read, layout), read.network.name)
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


def _target(source: Path, read: Imported, name: str) -> Layout:
    """Return the layout to export to. Raises UserError if it has no network that computes the same."""
    network = read.network
    known = {each.name: each for each in layouts_of(network.name).values() if each.name != "ours" and not each.obstacle}
    if network.se != "default":
        known = {}
    strides = {each: "stride_in_3x3" in layout.entries(network.name) for each, layout in known.items()}
    able = [each for each in known if strides[each] == network.stride_in_3x3]
    if name in able:
        return known[name]
    reason = f"has no {network.name}"
    if network.se != "default":
        reason = f"has no {network.name} with another block than the paper's (model.se)"
    elif name in known:
        ours, theirs = ("3x3" if is_3x3 else "first 1x1" for is_3x3 in (network.stride_in_3x3, strides[name]))
        reason = f"its {network.name} has the stride in the {theirs} convolution, and these weights in the {ours}"
    raise UserError(f"{source}: --layout {name}: {reason}; these can be exported as {', '.join([*able, 'onnx'])}")
