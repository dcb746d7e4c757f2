"""What a recipe names from outside its run, looked at before one stage has worked for hours and the next one fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launch.command import command_line
from pipeline.config.schema import Config
from pipeline.data.tree import check_folders
from pipeline.ground.errors import UserError
from pipeline.interop.container import recognise
from pipeline.running.stage import PlacedStage
from pipeline.training.initial_checkpoint import initial_step


def check_initial_checkpoint(config: Config) -> None:
    """UserError where what `freeze_bn.from_checkpoint` names is no checkpoint; before stages are placed, which need
    its manifest."""
    if config.freeze_bn.from_checkpoint is not None:
        initial_step(config.freeze_bn.from_checkpoint)


def check_inputs(config: Config, stages: Mapping[str, PlacedStage]) -> None:
    """The folders of images and the weight file that the undone ones of `stages` read on this machine. UserError with
    what is missing or of another kind, and the way to make what is meant."""
    undone = {name for name, stage in stages.items() if not stage.is_done}
    if "prepare" in undone:
        check_folders(config.data)
    if "evaluate" in undone and config.evaluate.weights is not None:
        _check_weights(Path(config.evaluate.weights))


def _check_weights(path: Path) -> None:
    if recognise(path) != "safetensors":
        command = command_line("weights", "import", path, path.with_name(f"{path.stem}-imported.safetensors"))
        raise UserError(f"evaluate.weights: must be a safetensors file (given {path}); make one of it with: {command}")
