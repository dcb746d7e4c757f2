"""Whether DeepSpeed is installed, and what to do where it is not. Imports neither torch nor DeepSpeed."""

from __future__ import annotations

import importlib.util
import sys

from pipeline.ground.errors import UserError


def check_installed() -> None:
    """UserError where DeepSpeed is not there to be imported."""
    if importlib.util.find_spec("deepspeed") is None:
        raise missing("it is not installed")


def missing(problem: str) -> UserError:
    """The error that says what is wrong and gives the command that installs it."""
    return UserError(
        f"engine: deepspeed needs the package DeepSpeed for {sys.executable}: {problem}; install it with\n"
        f"  {sys.executable} -m pip install 'deepspeed>=0.19'"
    )
