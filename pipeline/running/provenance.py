"""Versions, machine, command and commit, recorded with every stage so that a result can be traced years later."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.ground.interpreter import SOURCE

PROVENANCE = "provenance.json"
"""In a run directory: versions and machine of its last set-up, and the keys of its stages."""
_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda130", "numpy", "pillow", "safetensors", "wandb")


def collect_provenance() -> dict[str, Any]:
    """Return versions, machine, command and the state of the source tree, as plain values."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        # As typed: `sys.argv` has a file's path in place of `-m` and a module's name.
        "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
        "git": git_state(SOURCE),
    }


def git_state(source: Path) -> dict[str, Any] | None:
    """Return the commit, and whether tracked files differ from it, or None outside a git checkout."""
    commit = _git(source, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(source, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": bool(changes)}


def _git(source: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
