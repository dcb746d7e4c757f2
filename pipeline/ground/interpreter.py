"""The environment in which this program starts its own modules as processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[2]
"""Folder of the packages: the checkout, or the site-packages of an installation."""
COMMAND = "senet154"
"""Name of the installed command, and of the distribution that brings it."""
LAUNCHER = "SENET154_LAUNCHER"
"""Environment variable with the id of the process that started a module, with which it is to end."""


def module_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for `python -m` with a module of this program.

    The process and all below it find our packages where this one has them, and import nothing from the working
    directory: people have folders with a `pipeline/` or a `stages.py` of their own.
    """
    # An empty entry stands for the working directory. Site-packages stay behind the standard library.
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if (SOURCE / "pyproject.toml").is_file():
        entries.insert(0, str(SOURCE))
    own = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries), LAUNCHER: str(os.getpid())}
    return {**environment, **own}
