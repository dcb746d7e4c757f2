"""Detect DeepSpeed, with the command that installs it. Imports neither torch nor DeepSpeed."""

from __future__ import annotations

import importlib.util
import sys

from pipeline.ground.errors import UserError


def check_installed() -> None:
    """Raise UserError if DeepSpeed cannot be found, with the command that installs it."""
    if importlib.util.find_spec("deepspeed") is None:
        raise missing("it is not installed")


def missing(problem: str) -> UserError:
    """Return the error that names what is missing and the command that installs it."""
    return UserError(
        f"engine: deepspeed needs the package DeepSpeed for {sys.executable}: {problem}; install it with\n"
        f"  {sys.executable} -m pip install 'deepspeed>=0.19'"
    )
