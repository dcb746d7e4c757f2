"""Recognise a weight file by its first bytes. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from pipeline.ground.errors import UserError

_MXNET = (0x112).to_bytes(8, "little")


def recognise(path: Path) -> str:
    """Return "safetensors", "torch" or "caffe".

    A protobuf message has no magic number: an unknown file is "caffe", and its reader decides. Raises UserError if the
    file cannot be read or is known to be of another format.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: must be a file (given a folder, a pipe or a device)")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start:
        raise UserError(f"{path}: the file is empty")
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if start.startswith(_MXNET):
        raise UserError(
            f"{path}: this is an MXNet parameter file; MXNet was retired in 2023 and no kept-up package reads it. "
            "timm's senet154.gluon_in1k has the same weights as a PyTorch file, which can be imported"
        )
    if start.lstrip().startswith(b"<"):
        raise UserError(f"{path}: this is a web page, not a weight file; the download went to a page about it")
    if start.startswith(b"\x89HDF"):
        raise UserError(f"{path}: this is an HDF5 file, which none of the known layouts is")
    return "caffe"
