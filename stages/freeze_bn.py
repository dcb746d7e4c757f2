"""Train the last epochs with the batch norms frozen, as change (f) of the paper's appendix says."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.index import read_dataset
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError
from pipeline.running.context import StageContext, StageResult
from pipeline.training.bn_freeze import freeze_batch_norms
from pipeline.training.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from pipeline.training.phase import CHECKPOINTS, new_model, stream_order, train_phase
from pipeline.training.trainer import Phase


def run(context: StageContext) -> StageResult:
    """Go on from the train stage's last checkpoint, or from the one the config names, to the run's last epoch.

    Optimizer state and schedule go on as if nothing had happened; only the batch norms stand still.
    """
    dataset = read_dataset(context.inputs["prepare"])
    order = stream_order(context, dataset)
    path = _starting_point(context)
    start = read_checkpoint(path)
    last_step = order.steps_for(context.config.train.epochs)
    if start.global_step >= last_step:
        raise UserError(
            f"freeze_bn.from_checkpoint: the checkpoint stands at step {start.global_step} and this recipe ends at "
            f"step {last_step}; raise train.epochs or choose an earlier checkpoint"
        )
    _check_same_stream(start, order)
    model = new_model(context)
    count = freeze_batch_norms(model, context.config.freeze_bn.scope)
    context.events.show(
        "note",
        level="info",
        text=f"{count} batch norms frozen ({context.config.freeze_bn.scope.replace('_', ' ')}) "
        f"after step {start.global_step}",
    )
    phase = Phase(start.global_step, last_step)
    return train_phase(context, dataset, phase, model, start.model, str(path), start.optimizer)


def _starting_point(context: StageContext) -> Path:
    named = context.config.freeze_bn.from_checkpoint
    if named is not None:
        return Path(named)
    store = CheckpointStore(context.inputs["train"] / CHECKPOINTS, keep_last=1, keep_best=False)
    path = store.newest(warn=lambda text: context.events.show("note", level="warning", text=text))
    if path is None:
        raise UserError(f"{store.directory}: the finished train stage has no checkpoint left to go on from")
    return path


def _check_same_stream(start: Checkpoint, order: StreamOrder) -> None:
    """A step of the checkpoint must mean the same share of an epoch here, or schedule and data would jump."""
    saved = start.state["loader"]["fingerprint"]
    differences = [
        f"{name}: {saved[name]} there, {here} here"
        for name, here in (("images", order.num_images), ("train.global_batch", order.global_batch))
        if saved.get(name) != here
    ]
    if differences:
        raise UserError("\n".join(["the checkpoint belongs to another run:", *differences]))
