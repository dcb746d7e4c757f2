"""One phase of training, from its initial weights to its final ones."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.data.index import ImageIndex
from pipeline.data.preprocessing import Preprocessing
from pipeline.engines import create_engine
from pipeline.engines.engine import Engine
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.gc_pause import paused_gc
from pipeline.ground.stop import StopFlag
from pipeline.models.weights import load_tensors, load_weights, save_weights
from pipeline.tracking.events import EventLog, read_events
from pipeline.training.batching import BatchSplit, describe_batch, split_batch
from pipeline.training.checkpoint import CheckpointStore, checkpoint_files, read_checkpoint, verify_checkpoint
from pipeline.training.checkpoint_seal import CHECKPOINTS, BrokenCheckpoint, step_name
from pipeline.training.state import TrainingState
from pipeline.training.trainer import Phase, Trainer, image_digests
from pipeline.training.validation_record import ValidationRecord
from pipeline.training.world import describe_change, describe_world

WEIGHTS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """The result of a finished phase; the same on every rank."""

    outputs: list[str]
    """Files relative to the directory: the weights and the last checkpoint, its seal included."""
    metrics: dict[str, Any]
    images: dict[str, str]
    """Digest of the index by split."""


def train_phase(
    config: Config,
    directory: Path,
    collective: Collective,
    events: EventLog,
    stop: StopFlag,
    train: ImageIndex,
    val: ImageIndex,
    phase: Phase,
    model: nn.Module,
    initial: Path,
    ready: Callable[[BatchSplit, bool], None] | None = None,
) -> PhaseResult:
    """Train `phase` from `initial`, or resume an earlier attempt in `directory`.

    `initial` is a weight file, or a checkpoint directory, whose optimizer state is then used. `model` may be on the
    meta device. `ready` is called once its weights are loaded, and before the engine takes it, with whether an earlier
    attempt is resumed. Raises UserError if the checkpoint to resume from is damaged or was made from
    other images.
    """
    if train.dataset != val.dataset:
        raise UserError(
            "data.val: these validation images are a part of ILSVRC 2012's, or others, prepared to be evaluated alone; "
            "put all 50,000 there and begin with another --run"
        )
    started = time.monotonic()
    split = split_batch(config.train.global_batch, collective.ranks.world_size, config.train.max_micro_batch)
    _note(events, describe_batch(split, config.optim.lr))
    if config.engine != "native":
        _note(events, f"engine {config.engine_in_words}")
    store = CheckpointStore(directory / CHECKPOINTS, config.checkpoint.keep_last, config.checkpoint.keep_best)
    images = image_digests(train, val)
    path, is_resumed = _choose_start(store, initial, collective, events)
    state = _load(path, model, images)
    if ready is not None:
        ready(split, is_resumed)
    engine = _new_engine(model, config, collective)
    # It also allocates what CUDA graphs, captured by the warm-up, read the weights of branches from.
    trainer = Trainer(config, train, val, phase, split, engine, collective, store, events, stop)
    trainer.warm_up()
    if state is not None:
        engine.load_state_dict(state.optimizer)
        trainer.continue_schedule(state)
    if state is not None and is_resumed:
        trainer.resume(state, path)
        _note(events, f"going on after step {state.global_step}, from {path}")
        if change := describe_change(state.world, describe_world(config, train, collective, split)):
            _note(events, change)
    else:
        events.rewind(None)
    del state  # and its tensors
    validations = trainer.run()
    if collective.ranks.is_main:
        _save_weights(config, model, train, directory / WEIGHTS)
    metrics = {
        "global_step": trainer.global_step,
        "epochs": round(trainer.global_step * split.global_batch / len(train), 4),
        **_errors(validations),
        "seconds": round(time.monotonic() - started, 1),
        "images_per_second": _median_speed(directory),
        "engine": config.engine_in_words,
        **{name: getattr(split, name) for name in ("world_size", "micro_batch", "accumulation")},
    }
    last = store.directory / step_name(trainer.global_step)
    return PhaseResult([WEIGHTS, *checkpoint_files(last, directory)], metrics, images)


def _new_engine(model: nn.Module, config: Config, collective: Collective) -> Engine:
    if collective.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    with paused_gc():  # PyTorch imports its compiler for the first optimizer, compiled or not
        return create_engine(model, config, collective)


def _choose_start(store: CheckpointStore, initial: Path, collective: Collective, events: EventLog) -> tuple[Path, bool]:
    """Return the starting point, and whether an earlier attempt left it.

    The main rank verifies it and decides for all.
    """

    def warn(text: str) -> None:
        events.show("note", level="warning", text=text)

    newest = None
    if collective.ranks.is_main:
        newest = store.newest(warn)
        if newest is None and initial.is_dir():
            try:
                verify_checkpoint(initial)
            except BrokenCheckpoint as error:
                raise UserError(f"not a whole checkpoint: {error}") from error
    newest = collective.broadcast(None if newest is None else str(newest))
    return (initial, False) if newest is None else (Path(newest), True)


def _load(path: Path, model: nn.Module, images: Mapping[str, str]) -> TrainingState | None:
    """Read the weights into the model. Returns the rest of the state, or None if `path` is a mere weight file."""
    if not path.is_dir():
        load_weights(model, path)
        return None
    state = read_checkpoint(path)
    changed = [split for split, digest in images.items() if state.images.get(split) != digest]
    if changed:
        raise UserError(
            f"{path}: made from other images (those of {' and '.join(changed)} have changed); put the old ones back, "
            "or use another --run"
        )
    load_tensors(model, state.model, str(path))
    return state


def _save_weights(config: Config, model: nn.Module, train: ImageIndex, path: Path) -> None:
    """Write the weights with their classes and the preprocessing that they need."""
    preprocessing = Preprocessing(config.input.mean, config.input.std, config.augmentation.kernel)
    classes = json.dumps([image_class.folder for image_class in train.classes])
    about = {**config.model.metadata(), "num_classes": str(len(train.classes)), "classes": classes}
    save_weights(path, model.state_dict(), about | preprocessing.metadata())


def _errors(validations: ValidationRecord) -> dict[str, Any]:
    latest = validations.latest or {}
    errors = {name: latest.get(name) for name in ("top1_error_percent", "top5_error_percent")}
    return {**errors, "best": validations.best}


def _median_speed(directory: Path) -> float | None:
    speeds = [event["images_per_second"] for event in read_events(directory, "train")]
    return statistics.median(speeds) if speeds else None


def _note(events: EventLog, text: str) -> None:
    events.show("note", level="info", text=text)
