"""Train from the seeded initial weights to the epoch where the batch norms freeze."""

from __future__ import annotations

from pipeline.data.index import read_dataset
from pipeline.models.weights import read_weights
from pipeline.running.context import StageContext, StageResult
from pipeline.training.phase import WEIGHTS, new_model, stream_order, train_phase
from pipeline.training.trainer import Phase


def run(context: StageContext) -> StageResult:
    """Synchronous SGD over train.epochs - freeze_bn.last_epochs epochs (section 5.1 and appendix of the paper)."""
    dataset = read_dataset(context.inputs["prepare"])
    last_step = stream_order(context, dataset).steps_for(context.config.train_stage_epochs)
    path = context.inputs["build"] / WEIGHTS
    phase = Phase(0, last_step)
    return train_phase(context, dataset, phase, new_model(context), read_weights(path), str(path), optimizer=None)
