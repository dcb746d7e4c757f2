"""Check that the packages of a recipe's engine are installed here, if a stage needs them."""

from __future__ import annotations

from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.engines import apex_package, deepspeed_package


def check_engine(config: Config, stages: Stages) -> None:
    """Raise UserError if one of `stages` has still to train, and the engine's package is missing for this Python."""
    if all(stage.is_done for stage in stages.values() if stage.stage.is_training):
        return
    if config.apex is not None:
        apex_package.check_installed()
    if config.deepspeed is not None:
        deepspeed_package.check_installed()
