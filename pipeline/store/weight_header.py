"""The header of a safetensors file: metadata, names and shapes of tensors. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file. Raises UserError as `opened` does."""
    with opened(path, "np") as file:
        return dict(file.metadata() or {})


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's tensors by name. Raises UserError as `opened` does."""
    with opened(path, "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def opened(path: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """Open a file to read tensors of a framework.

    Raises UserError if it is missing, damaged or of another format.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        with safe_open(path, framework, device="cpu") as tensors:
            yield tensors
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a weight file ({error.strerror or error})") from error
    except SafetensorError as error:
        hint = f"not a readable safetensors file ({error})"
        if start.startswith(_PICKLE_STARTS):
            command = command_line("weights", "import", path, path.with_name(f"{path.stem}-imported.safetensors"))
            hint = f"this is a pickle (.pth), which could run code when loaded; convert it to safetensors: {command}"
        raise UserError(f"{path}: {hint}") from error
