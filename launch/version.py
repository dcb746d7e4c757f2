"""The version of this program."""

from __future__ import annotations

import argparse
import importlib.metadata
import tomllib
from pathlib import Path
from typing import NoReturn

from pipeline.ground.interpreter import COMMAND


class PrintVersion(argparse.Action):
    """Option that prints the version and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print it and exit with 0."""
        print(f"senet154 {read_version()}")
        parser.exit()


def read_version() -> str:
    """Return the version of the source, or that of the installed package if there is no source."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    # An editable installation records the version of its own time.
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return importlib.metadata.version(COMMAND)
