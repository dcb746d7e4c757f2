"""Checks of inputs from outside the run, before hours of work end in an error."""

from __future__ import annotations

from pathlib import Path

from launch.command import command_line
from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.data.tree import check_folders
from pipeline.ground.errors import UserError
from pipeline.interop.container import recognise
from pipeline.training.initial_checkpoint import initial_step


def check_initial_checkpoint(config: Config) -> None:
    """Check that `freeze_bn.from_checkpoint` is a checkpoint, before stages are placed, which need its seal.

    Raises UserError if it is not.
    """
    if config.freeze_bn.from_checkpoint is not None:
        initial_step(config.freeze_bn.from_checkpoint)


def check_inputs(config: Config, stages: Stages) -> None:
    """Check that the image folders and the weight file needed by unfinished ones of `stages` exist.

    Raises UserError saying what is missing or of another kind, and how to create it.
    """
    if "prepare" in stages:
        wanted = [part.split for part in stages["prepare"].parts if part.split is not None and not part.is_done]
        check_folders(config.data, wanted)
    if "evaluate" in stages and not stages["evaluate"].is_done and config.evaluate.weights is not None:
        _check_weights(Path(config.evaluate.weights))


def _check_weights(path: Path) -> None:
    if recognise(path) != "safetensors":
        command = command_line("weights", "import", path, path.with_name(f"{path.stem}-imported.safetensors"))
        raise UserError(f"evaluate.weights: must be a safetensors file (given {path}); make one of it with: {command}")
