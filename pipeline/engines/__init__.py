"""How gradients are computed, reduced and applied. Importing this package imports no torch; `create_engine` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pipeline.config.schema import Config
    from pipeline.engines.engine import Engine
    from pipeline.ground.distributed import Collective


def create_engine(model: nn.Module, config: Config, collective: Collective) -> Engine:
    """The recipe's engine around the model, which it takes to the collective's device.

    The model holds its weights and its frozen batch norms are frozen. UserError where the engine's package is missing.
    """
    if config.deepspeed is not None:
        from pipeline.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(model, config.optim, config.execution, config.deepspeed, collective)
    if config.apex is not None:
        from pipeline.engines.apex import ApexEngine

        return ApexEngine(model, config.optim, config.execution, config.apex, collective)
    from pipeline.engines.native import NativeEngine

    assert config.native is not None
    return NativeEngine(model, config.optim, config.execution, config.native, collective)
