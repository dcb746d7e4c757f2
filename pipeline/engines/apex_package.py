"""Detect NVIDIA Apex, with the command that builds it. Imports neither torch nor Apex."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import SOURCE

EXTENSION = "amp_C"
"""Compiled module with the kernel of FusedSGD."""


def check_installed() -> None:
    """Raise UserError if Apex or its extension cannot be found, with the command that builds it."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        raise missing("it is not installed")
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not any((place / "optimizers").is_dir() for place in places):
        where = places[0] if places else spec.origin
        raise missing(f"the installed apex ({where}) is another project of that name, to be removed first")
    if importlib.util.find_spec(EXTENSION) is None:
        raise missing(f"it was built without the extension {EXTENSION}")


def missing(problem: str) -> UserError:
    """Return the error that names what is missing and the command that builds it."""
    return UserError(
        f"engine: apex needs NVIDIA Apex for {sys.executable}: {problem}; build it from a checkout of "
        f"https://github.com/NVIDIA/apex with\n  bash {SOURCE}/launch/install_apex.sh PATH_TO_APEX_SOURCE"
    )
