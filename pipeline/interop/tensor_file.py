"""Read files of named tensors, PyTorch's and safetensors, without running code from them."""

from __future__ import annotations

import argparse
import contextlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pipeline.ground.errors import UserError
from pipeline.interop.entry import choose_entry, is_plain_tensor, shown
from pipeline.models.weights import read_weights

_SAVE = """a whole pickled network is code; where it can be loaded, save its numbers alone:
    import torch
    model = torch.load({path!r}, weights_only=False)  # this runs the file's code
    torch.save(model.state_dict(), {saved!r})"""


def read_tensor_file(
    path: Path, kind: str, entry: str | None = None, note: Callable[[str], None] = lambda text: None
) -> dict[str, torch.Tensor]:
    """Return the network's tensors by name, on the CPU; `kind` is safetensors or torch, see `container.recognise`.

    A training checkpoint is unwrapped, prefixes are taken off, and `note` reports what was chosen. `entry` names one of
    several networks in it. Raises UserError if the file is damaged, asks to run code, or holds no named tensors, or
    several networks.
    """
    content = read_weights(path) if kind == "safetensors" else _read_pickle(path)
    found = choose_entry(path, content, entry, note)
    for name, value in found.items():
        if not isinstance(name, str) or not is_plain_tensor(value):
            raise UserError(f"{path}: must be a state dict, names with tensors (found {shown(value)} at {name!r:.80})")
    return {name: tensor.detach() for name, tensor in found.items()}


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            _refuse_zip_bomb(path)
    # PyTorch warns at length of odd pickles; they are refused below or harmless.
    # The scripts of timm and torchvision save their arguments: a class that is a plain bag of values.
    with _naming_damage(path), warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
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
                f"read, as `torch.save(model.state_dict(), ...)` writes them{_way_out(path, wanted[1])}"
            ) from None
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: this is a TorchScript program; its tensors alone are needed, as a state dict"
            ) from None
        raise UserError(f"{path}: not a readable PyTorch file ({type(error).__name__})") from None


def _way_out(path: Path, wanted: str) -> str:
    """Explain how to save the tensors of a pickled network, if a class is wanted; else return nothing."""
    if not wanted.rpartition(".")[2][:1].isupper():
        return ""
    return "; " + _SAVE.format(path=str(path), saved=str(path.with_name(f"{path.stem}-state-dict.pth")))
