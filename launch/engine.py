"""Whether the packages of a recipe's engine are installed here, where a stage needs them."""

from __future__ import annotations

from launch.estimate import TRAINING_STAGES
from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.engines import apex_package, deepspeed_package


def check_engine(config: Config, stages: Stages) -> None:
    """UserError where one of `stages` has still to train, and the engine's package is missing for this Python."""
    if all(stage.is_done for name, stage in stages.items() if name in TRAINING_STAGES):
        return
    if config.apex is not None:
        apex_package.check_installed(config.apex)
    if config.deepspeed is not None:
        deepspeed_package.check_installed()
