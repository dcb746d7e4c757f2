"""The recipes and profiles that come with the program, under the names that they have in its repository."""

from __future__ import annotations

import contextlib
import importlib.metadata
from pathlib import Path

from pipeline.ground.interpreter import SOURCE

_FOLDERS = ("configs", "slurm")


def find_file(name: str) -> Path:
    """Return the path `name`, or, if there is no such file and it names one that comes with the program, that one's."""
    path = Path(name)
    if path.exists() or path.parts[:1] not in [(folder,) for folder in _FOLDERS]:
        return path
    if (SOURCE / path).is_file():
        return SOURCE / path
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("senet154") or ():
            if file.match(f"share/senet154/{path}"):
                return Path(str(file.locate())).resolve()
    return path
