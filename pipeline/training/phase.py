"""What the stages train and freeze_bn share: one phase of training, from where it starts to the weights it leaves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pipeline.data.index import Dataset
from pipeline.data.order import StreamOrder
from pipeline.engines import create_engine
from pipeline.engines.engine import OptimizerState
from pipeline.ground.gc_pause import paused_gc
from pipeline.interop.preprocessing import Preprocessing
from pipeline.models import create_model
from pipeline.models.weights import load_tensors, save_weights
from pipeline.running.context import StageContext, StageResult
from pipeline.tracking.events import read_events
from pipeline.training.batching import describe_batch, split_batch
from pipeline.training.checkpoint import CheckpointStore, checkpoint_files, read_checkpoint
from pipeline.training.trainer import Phase, Trainer
from pipeline.training.world import compare_processes, describe_processes

WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"


def stream_order(context: StageContext, dataset: Dataset) -> StreamOrder:
    """The order in which this run sees its training images."""
    return StreamOrder(len(dataset.train), context.config.train.global_batch, context.config.seed)


def new_model(context: StageContext) -> nn.Module:
    """The recipe's network on the meta device; its weights are still to be loaded."""
    model = context.config.model
    with torch.device("meta"):
        return create_model(model.name, model.num_classes, dropout=model.dropout, bn_momentum=model.bn_momentum)


def train_phase(
    context: StageContext,
    dataset: Dataset,
    phase: Phase,
    model: nn.Module,
    weights: Mapping[str, torch.Tensor],
    source: str,
    optimizer: OptimizerState | None,
) -> StageResult:
    """Train `phase` from `weights` (read from `source`) and `optimizer`, or from where an earlier attempt stopped.

    Leaves weights.safetensors (parameters and batch norm statistics) and the last checkpoint.
    """
    started = time.monotonic()
    config, collective = context.config, context.collective
    if collective.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    split = split_batch(config.train.global_batch, collective.ranks.world_size, config.train.max_micro_batch)
    _note(context, describe_batch(split, config.optim.lr))
    if config.engine != "native":
        _note(context, f"engine {config.engine_in_words}")
    load_tensors(model, weights, source)
    with paused_gc():  # PyTorch imports its compiler for the first optimizer, compiled or not
        engine = create_engine(model, config, collective)
    size = config.train.image_size_px
    engine.warm_up((split.micro_batch, 3, size, size))
    # Again, since the simulation has moved the batch norms' statistics.
    engine.load_model(weights)
    if optimizer is not None:
        engine.load_state_dict(optimizer)
    store = CheckpointStore(context.directory / CHECKPOINTS, config.checkpoint.keep_last, config.checkpoint.keep_best)
    order = stream_order(context, dataset)
    trainer = Trainer(config, dataset, order, phase, split, engine, collective, store, context.events, context.stop)
    _resume(context, trainer, store, describe_processes(config, collective, split))
    progress = trainer.run()
    engine.synchronise_buffers()
    validation = progress.validation or {}
    metrics = {
        "global_step": progress.global_step,
        "epochs": round(float(order.epoch_of(progress.global_step)), 4),
        "top1_error_percent": validation.get("top1_error_percent"),
        "top5_error_percent": validation.get("top5_error_percent"),
        "best": progress.best,
        "seconds": round(time.monotonic() - started, 1),
        "images_per_second": _median_speed(context.directory),
        "engine": config.engine_in_words,
        "world_size": split.world_size,
        "micro_batch": split.micro_batch,
        "accumulation": split.accumulation,
    }
    last = context.directory / CHECKPOINTS / f"step-{progress.global_step:08d}"
    if context.ranks.is_main:
        # What evaluate and whoever gets the file must do to an image.
        preprocessing = Preprocessing(config.data.mean, config.data.std, "bilinear_antialias")
        metadata = {
            "model": config.model.name,
            "num_classes": str(config.model.num_classes),
            **preprocessing.metadata(),
        }
        save_weights(context.directory / WEIGHTS, model.state_dict(), metadata)
    return StageResult([WEIGHTS, *checkpoint_files(last, context.directory)], metrics)


def _resume(context: StageContext, trainer: Trainer, store: CheckpointStore, processes: dict[str, object]) -> None:
    """From the newest whole checkpoint of this stage, if there is one; the main rank chooses for all."""

    def warn(text: str) -> None:
        context.events.show("note", level="warning", text=text)

    newest = store.newest(warn) if context.ranks.is_main else None
    chosen = context.collective.broadcast(None if newest is None else str(newest))
    if chosen is None:
        context.events.rewind(0)
        return
    checkpoint = read_checkpoint(Path(chosen))
    difference = compare_processes(checkpoint.state["processes"], processes)
    trainer.resume(checkpoint, Path(chosen))
    _note(context, f"going on after step {checkpoint.global_step}, from {chosen}")
    if difference:
        _note(context, difference)


def _median_speed(directory: Path) -> float | None:
    speeds = [event["images_per_second"] for event in read_events(directory, "train")]
    return statistics.median(speeds) if speeds else None


def _note(context: StageContext, text: str) -> None:
    context.events.show("note", level="info", text=text)
