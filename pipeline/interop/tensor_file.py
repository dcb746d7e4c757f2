"""Read files of named tensors, PyTorch's and safetensors, without running code from them."""

from __future__ import annotations

import contextlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.ground.errors import UserError
from pipeline.models.weights import read_weights

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Usual names of the network's part of a training checkpoint."""
_PARALLEL = "module."
"""The prefix of names in DataParallel and DistributedDataParallel."""


def read_tensor_file(path: Path, kind: str) -> dict[str, torch.Tensor]:
    """Return the network's tensors by name, on the CPU; `kind` is safetensors or torch, see `container.recognise`.

    A training checkpoint is unwrapped, and the prefix of a parallel network removed. Raises UserError if the file is
    damaged, asks to run code, or holds no named tensors.
    """
    tensors = read_weights(path) if kind == "safetensors" else _named_tensors(path, _read_pickle(path))
    if tensors and all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            _refuse_zip_bomb(path)
    # PyTorch warns at length of odd pickles; they are refused below or harmless.
    with _naming_damage(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_zip_bomb(path: Path) -> None:
    """Raise UserError if records are compressed or larger than the file: PyTorch stores them uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable PyTorch file ({error})") from error
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    total, size = sum(record.file_size for record in records), path.stat().st_size
    if packed or total > size:
        what = f"{packed[0]} is compressed" if packed else f"records of {total:,} bytes in a file of {size:,}"
        raise UserError(f"{path}: refused, no PyTorch file is like this: {what}")


@contextlib.contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # A hostile or broken pickle can raise anything, and PyTorch's own message ends with the advice to run it.
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path}: refused: it asks for {wanted[1]}, which could run code, or it is damaged; only tensors are "
                "read, as `torch.save(model.state_dict(), ...)` writes them"
            ) from None
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: this is a TorchScript program; its tensors alone are needed, as a state dict"
            ) from None
        raise UserError(f"{path}: not a readable PyTorch file ({type(error).__name__})") from None


def _named_tensors(path: Path, content: object) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: must be a state dict, names with tensors (found {_shown(content)})")
    for name, value in content.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise UserError(f"{path}: must be a state dict, names with tensors (found {_shown(value)} at {name!r:.80})")
    return {name: tensor.detach() for name, tensor in content.items()}


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(repr, list(value)[:5]))}" if value else "an empty dict"
    return f"a {type(value).__name__}"
