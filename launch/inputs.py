"""Checks of inputs from outside the run, before hours of work end in an error."""

from __future__ import annotations

from pathlib import Path

from launch.command import command_line
from launch.job_graph import Stages
from launch.own_images import check_own_images
from pipeline.config.schema import Config
from pipeline.data.recognition import check_places
from pipeline.ground.errors import UserError
from pipeline.interop.container import recognise
from pipeline.running.named_weights import resolve_weights
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
        check_own_images(config, stages)
        check_places(config.data, wanted)
    if "evaluate" in stages and not stages["evaluate"].is_done and config.evaluate.weights is not None:
        name, stage = config.evaluate.weights, stages["evaluate"]
        require_safetensors(resolve_weights(name, stage.directory.parent))
    if "build" in stages and not stages["build"].is_done and config.model.weights is not None:
        name, stage = config.model.weights, stages["build"]
        require_safetensors(resolve_weights(name, stage.directory.parent, "model.weights"), "model.weights")


def require_safetensors(path: Path, key: str = "evaluate.weights") -> None:
    """Raises UserError, beginning with `key`, unless a file is of that kind; it says how to make one."""
    if recognise(path) != "safetensors":
        command = command_line("weights", "import", path, path.with_name(f"{path.stem}-imported.safetensors"))
        raise UserError(f"{key}: must be a safetensors file (given {path}); make one of it with: {command}")
