"""The recipes and profiles that come with the program, under the names that they have in its repository."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from pathlib import Path

from pipeline.ground.interpreter import COMMAND, SOURCE

_FOLDERS = ("configs", "slurm")


def find_file(name: str) -> Path:
    """Return the path `name`, or, where nothing is there, the file of that name that comes with the program."""
    path = Path(name)
    if path.exists() or path.parts[:1] not in [(folder,) for folder in _FOLDERS]:
        return path
    packaged = packaged_folder(path.parts[0]).parent / path
    return packaged if packaged.is_file() else path


@functools.cache
def packaged_folder(name: str) -> Path:
    """Return the folder `configs` or `slurm` that comes with the program: of the source, or of the installation."""
    if not (SOURCE / name).is_dir():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for file in importlib.metadata.files(COMMAND) or ():
                if "share" in file.parts and f"share/{COMMAND}/{name}/" in file.as_posix():
                    root, _, _ = Path(str(file.locate())).resolve().as_posix().rpartition(f"/{COMMAND}/{name}/")
                    return Path(root) / COMMAND / name
    return SOURCE / name
