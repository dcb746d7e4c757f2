"""Train from the seeded initial weights up to the frozen epochs."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.data.index import check_num_classes
from pipeline.data.order import StreamOrder
from pipeline.data.preprocessing import read_preprocessing
from pipeline.models.claims import meta_model
from pipeline.models.head import freeze_all_but_head
from pipeline.running.context import StageContext, StageResult
from pipeline.store.weight_header import read_metadata
from pipeline.training.checkpoint_seal import CHECKPOINTS, numbered
from pipeline.training.phase import WEIGHTS, train_phase
from pipeline.training.shorter import find_shorter
from pipeline.training.trainer import Phase, image_digests


def run(context: StageContext) -> StageResult:
    """Take synchronous SGD steps for train.epochs - train.frozen_epochs epochs (section 5.1 of the paper)."""
    config, train, val = context.config, context.images("train"), context.images("val")
    check_num_classes(train, config.model.num_classes)
    order = StreamOrder(len(train), config.train.global_batch, config.seed)
    model = meta_model(config.model, len(train.classes))
    if config.train.only_head:
        freeze_all_but_head(model)
        context.note("the classifier alone learns (train.only_head)")
    initial = context.inputs["build"] / WEIGHTS
    _compare_preprocessing(context, initial)
    last_step = order.steps_for(config.train_stage_epochs)
    if context.ranks.is_main:
        _go_on_from_shorter(context, order, last_step, image_digests(train, val))
    phase = Phase(0, last_step, follows_plateau=config.schedule.kind == "plateau")
    result = train_phase(
        config, context.directory, context.collective, context.events, context.stop, train, val, phase, model, initial
    )
    return StageResult(result.outputs, result.metrics, result.images)


def _go_on_from_shorter(context: StageContext, order: StreamOrder, last_step: int, images: dict[str, str]) -> None:
    """Begin with the end of a training to fewer epochs, if each of its steps is one that this would take alike."""
    part, directory = context.part, context.directory
    if numbered(directory / CHECKPOINTS):
        return
    for shorter in find_shorter(directory, part.version, part.inputs, part.identity):
        if shorter.images == images and shorter.obstacle(part.identity, order, last_step) is None:
            shorter.hand_over(directory, context.events)
            context.note(f"the training to {shorter.epochs} epochs in {shorter.directory} is gone on with")
            return


def _compare_preprocessing(context: StageContext, initial: Path) -> None:
    """Say so if the weights to begin with saw other pixels than the recipe gives them."""
    asked, pixels = read_preprocessing(read_metadata(initial), str(initial)), context.config.input
    if asked is not None and (asked.mean, asked.std) != (pixels.mean, pixels.std):
        keys = f"input.mean={json.dumps(asked.mean)} input.std={json.dumps(asked.std)}"
        context.note(f"the weights of model.weights saw other pixels than this recipe's: for theirs, {keys}", "warning")
