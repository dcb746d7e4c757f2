"""Stages of another run, named by a recipe or a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.reader import read_run_config
from pipeline.ground.errors import UserError
from pipeline.running.stage import Stage, place_stages
from pipeline.store.seal import BrokenSeal, read_seal, verify_files


def stage_directory(run: Path, name: str, stages: Sequence[Stage]) -> Path:
    """Return a run's sealed directory of the stage `name`. Raises UserError if it is not done."""
    placed = place_stages(read_run_config(run), run, stages)
    if name not in placed or not placed[name].is_done:
        raise UserError(f"{run}: stage '{name}' of this run is not done; to do it: python -m stages {name} --run {run}")
    return placed[name].directory


def verify_stage(directory: Path) -> None:
    """Raises UserError unless a stage's sealed directory still holds what its seal says."""
    try:
        seal = read_seal(directory, "stage")
        assert seal is not None, f"{directory} has no seal"
        verify_files(directory, seal)
    except BrokenSeal as error:
        raise UserError(f"{error}\ndelete {directory} and run that stage of its run again") from error
