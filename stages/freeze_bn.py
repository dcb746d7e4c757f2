"""Train the last epochs with frozen batch norms: change (f) of the paper's appendix."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import Config
from pipeline.data.index import check_num_classes
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError
from pipeline.models.batch_norm import freeze_batch_norms
from pipeline.models.claims import meta_model
from pipeline.models.head import freeze_all_but_head
from pipeline.running.context import StageContext, StageResult
from pipeline.store.seal import Seal
from pipeline.training.batching import BatchSplit
from pipeline.training.checkpoint_seal import CHECKPOINTS, BrokenCheckpoint, numbered, read_checkpoint_seal
from pipeline.training.phase import train_phase
from pipeline.training.running_statistics import recompute_running_statistics
from pipeline.training.trainer import Phase


def run(context: StageContext) -> StageResult:
    """Resume from the train stage's last checkpoint, or from the config's, and train to the run's last epoch.

    Optimizer state and schedule continue unchanged; only the batch norms are frozen.
    """
    config, train, val = context.config, context.images("train"), context.images("val")
    check_num_classes(train, config.model.num_classes)
    order = StreamOrder(len(train), config.train.global_batch, config.seed)
    initial, seal = _starting_point(context)
    phase = Phase(seal.about["global_step"], order.steps_for(_last_epoch(config, order, seal.about["global_step"])))
    if phase.first_step >= phase.last_step:
        raise UserError(
            f"freeze_bn.from_checkpoint: the checkpoint stands at step {phase.first_step} and this recipe ends at "
            f"step {phase.last_step}; raise train.epochs or choose an earlier checkpoint"
        )
    _check_same_stream(seal, order)
    model = meta_model(config.model, len(train.classes))

    def freeze(split: BatchSplit, is_resumed: bool) -> None:
        if config.freeze_bn.statistics == "recompute" and not is_resumed:
            count = recompute_running_statistics(
                model, config, train, split, phase.first_step, context.collective, context.stop
            )
            context.note(f"the batch norms' statistics are computed anew over {count:,} images")
        count, scope = freeze_batch_norms(model, config.freeze_bn.scope), config.freeze_bn.scope.replace("_", " ")
        context.note(f"{count} batch norms frozen ({scope}) after step {phase.first_step}")
        if config.train.only_head:
            freeze_all_but_head(model)

    result = train_phase(
        config,
        context.directory,
        context.collective,
        context.events,
        context.stop,
        train,
        val,
        phase,
        model,
        initial,
        freeze,
    )
    return StageResult(result.outputs, result.metrics, result.images)


def _last_epoch(config: Config, order: StreamOrder, first_step: int) -> int:
    """Return the run's last epoch: the recipe's, or as many after train's as are to be frozen if train ended by
    itself."""
    if config.schedule.kind != "plateau":
        return config.train.epochs
    return int(order.epoch_of(first_step)) + config.train.frozen_epochs


def _starting_point(context: StageContext) -> tuple[Path, Seal]:
    """Return the initial checkpoint and its seal; readers verify its files."""
    named = context.config.freeze_bn.from_checkpoint
    if named is None:
        folder = context.inputs["train"] / CHECKPOINTS
        path = next(iter(numbered(folder)), None)
        if path is None:
            raise UserError(f"{folder}: the finished train stage has no checkpoint left to go on from")
    else:
        path = Path(named)
    try:
        return path, read_checkpoint_seal(path)
    except BrokenCheckpoint as error:
        raise UserError(f"not a whole checkpoint: {error}") from error


def _check_same_stream(seal: Seal, order: StreamOrder) -> None:
    """Raise UserError unless a step of the checkpoint is the same part of an epoch here, or the schedule would jump."""
    facts = {"num_images": ("images", order.num_images), "global_batch": ("train.global_batch", order.global_batch)}
    differences = [
        f"{name}: {seal.about[fact]} there, {here} here"
        for fact, (name, here) in facts.items()
        if seal.about[fact] != here
    ]
    if differences:
        raise UserError("\n".join(["the checkpoint belongs to another run:", *differences]))
