"""Convert our weight files to formats of other software."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from pipeline.ground.errors import UserError
from pipeline.interop.importing import Imported, check_destination, read_foreign
from pipeline.interop.layout import LAYOUTS
from pipeline.models.weights import save_weights
from pipeline.store.file import replacing


def export_weights(source: Path, destination: Path, layout: str) -> Imported:
    """Convert our weight file `source` to `destination`, which must not exist, and return its content.

    `layout` is cadene or gluon, as .pth or .safetensors, or onnx, as .onnx. Raises UserError if a path or the content
    is wrong.
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
    if LAYOUTS[layout].needed not in read.tensors:
        raise UserError(f"{source}: --layout {layout}: {read.network.title} has no names in this layout; use onnx")
    named = {LAYOUTS[layout].to_theirs(name): tensor for name, tensor in read.tensors.items()}
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
