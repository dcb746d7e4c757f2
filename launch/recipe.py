"""The recipe of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.console import say
from pipeline.config.overrides import describe_overrides
from pipeline.config.reader import load_config
from pipeline.config.schema import Config


def read_recipe(path: Path, overrides: Sequence[str]) -> Config:
    """Read a recipe with overrides, and say in full what these set. Raises UserError as `load_config` does."""
    config = load_config(path, overrides)
    for line in describe_overrides(config, overrides):
        say(line)
    return config
