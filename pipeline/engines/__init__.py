"""Engines: computing, reducing and applying gradients. The package imports no torch; `create_engine` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pipeline.config.schema import Config
    from pipeline.engines.engine import Engine
    from pipeline.ground.distributed import Collective


def create_engine(model: nn.Module, config: Config, collective: Collective) -> Engine:
    """Build the recipe's engine around the model and move the model to the collective's device.

    The model holds its weights, and batch norms to be frozen are frozen. Raises UserError if the engine's package is
    missing.
    """
    if config.deepspeed is not None:
        from pipeline.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(model, config.optim, config.execution, config.deepspeed, collective)
    if config.apex is not None:
        from pipeline.engines.apex import ApexEngine

        return ApexEngine(model, config.optim, config.execution, collective)
    from pipeline.engines.native import NativeEngine

    assert config.native is not None
    return NativeEngine(model, config.optim, config.execution, config.native, collective)
