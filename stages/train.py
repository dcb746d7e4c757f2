"""Train from the seeded initial weights up to the frozen epochs."""

from __future__ import annotations

from pipeline.data.index import check_num_classes
from pipeline.data.order import StreamOrder
from pipeline.models.claims import meta_model
from pipeline.running.context import StageContext, StageResult
from pipeline.training.phase import WEIGHTS, train_phase
from pipeline.training.trainer import Phase


def run(context: StageContext) -> StageResult:
    """Take synchronous SGD steps for train.epochs - train.frozen_epochs epochs (section 5.1 of the paper)."""
    config, train, val = context.config, context.images("train"), context.images("val")
    check_num_classes(train, config.model.num_classes)
    order = StreamOrder(len(train), config.train.global_batch, config.seed)
    result = train_phase(
        config,
        context.directory,
        context.collective,
        context.events,
        context.stop,
        train,
        val,
        Phase(0, order.steps_for(config.train_stage_epochs)),
        meta_model(config.model),
        context.inputs["build"] / WEIGHTS,
    )
    return StageResult(result.outputs, result.metrics, result.images)
