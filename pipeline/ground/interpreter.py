"""The command that a person typed, and the environment in which this program starts its own modules."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[2]
"""Folder of the packages: the checkout, or the site-packages of an installation."""
COMMAND = "senet154"
"""Name of the installed command, and of the distribution that brings it."""
LAUNCHER = "SENET154_LAUNCHER"
"""Environment variable with the id of the process that started a module, with which it is to end."""

CALLED_AS = "SENET154_CALLED_AS"
"""Environment variable with the words by which a person called the launcher, for the messages of its children."""


def module_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for `python -m` with a module of this program.

    The process and all below it find our packages where this one has them, and import nothing from the working
    directory: people have folders with a `pipeline/` or a `stages.py` of their own.
    """
    # An empty entry stands for the working directory. Site-packages stay behind the standard library.
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if (SOURCE / "pyproject.toml").is_file():
        entries.insert(0, str(SOURCE))
    own = {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(entries),
        LAUNCHER: str(os.getpid()),
        CALLED_AS: shlex.join(program_words()),
    }
    return {**environment, **own}


def command_line(*arguments: str | Path) -> str:
    """Return a command line to suggest, which begins as this program was called."""
    return shlex.join([*program_words(), *map(str, arguments)])


def program_words() -> list[str]:
    """Return how this program was called: `senet154`, or else `python -m launch`."""
    if CALLED_AS in os.environ:
        return shlex.split(os.environ[CALLED_AS])
    is_script = Path(sys.argv[0]).name == COMMAND
    return [typed(sys.argv[0])] if is_script else [typed(sys.executable), "-m", "launch"]


def typed(program: str) -> str:
    """Return what to type for a program in this shell: its name if that is found, or else its path from here."""
    path, here = Path(program), Path.cwd()
    if shutil.which(path.name) == program:
        return path.name
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
