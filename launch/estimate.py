"""Estimates of a run's steps, time, memory and disk, from its recipe and its measurements so far."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.data.index import read_index
from pipeline.data.order import StreamOrder
from pipeline.networks.layers import Cost, layer_table
from pipeline.running.attempts import read_attempts
from pipeline.running.stage import PlacedStage, parts_of
from pipeline.store.seal import BrokenSeal, is_sealed, read_seal
from pipeline.tracking.events import Event, read_last_events
from pipeline.tracking.wording import rate
from pipeline.training.initial_checkpoint import initial_step

NO_RATE = "unknown; resources.expected_images_per_second is not set and nothing was measured in this run yet"
PUBLISHED_IMAGES = {"imagenet": 1_281_167, "digits": 1_438, "cifar10": 50_000, "cifar100": 50_000}
_PUBLISHED_EVALUATED = {"val": 50_000, "test": 100_000}
_CIFAR_EVALUATED = 10_000
_RECENT_EVENTS = 50


@dataclasses.dataclass(frozen=True)
class Images:
    """The number of training images."""

    count: int | None
    source: str


@dataclasses.dataclass(frozen=True)
class Span:
    """The optimizer steps of a training stage, counted from 0 over the whole run: first to last - 1."""

    first: int
    last: int
    until_epoch: int


@dataclasses.dataclass(frozen=True)
class Rate:
    """Training throughput."""

    images_per_second: float
    """Images per second of one process."""
    source: str

    def describe(self, processes: int) -> str:
        """Describe the throughput of so many processes."""
        return f"{processes} x {rate(self.images_per_second, 'image')} ({self.source})"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the device of one process."""

    parameters: int
    """Weights, their gradients and momentum, in float32."""
    activations: int
    """Values of one micro-batch kept for backward."""

    @property
    def total(self) -> int:
        """Sum of both; workspaces of single operations, the loader and the CUDA context add to it."""
        return self.parameters + self.activations


def with_counted_classes(config: Config, placed: Mapping[str, PlacedStage]) -> Config:
    """Return the recipe with the number of classes that prepare has counted, if it does not give one."""
    part = parts_of(placed).get("prepare-train")
    if config.model.num_classes is not None or part is None:
        return config
    try:
        seal = read_seal(part.directory, "stage")
    except BrokenSeal:
        return config
    counted = None if seal is None else seal.about["metrics"]["classes"]
    return config.model_copy(update={"model": config.model.model_copy(update={"num_classes": counted})})


def training_images(config: Config, placed: Mapping[str, PlacedStage]) -> Images:
    """Return the rows of prepare's index if that is done; else the published number, or none for other data sets."""
    part = parts_of(placed).get("prepare-train")
    if part is not None and part.is_done:
        return _indexed(part.directory)
    count = PUBLISHED_IMAGES.get(config.data.dataset)
    if count is None:
        return Images(None, "unknown until prepare is done")
    return Images(count, "as published; prepare is to check it")


def stream_order(config: Config, images: int) -> StreamOrder:
    """Return the order in which the run sees its training images."""
    return StreamOrder(images, config.train.global_batch, config.seed)


def step_spans(config: Config, order: StreamOrder, stages: Mapping[str, PlacedStage]) -> dict[str, Span]:
    """Return the steps of each training stage among `stages`; under a plateau schedule, as many as it may take at
    most."""
    spans: dict[str, Span] = {}
    initial, early = config.freeze_bn.from_checkpoint, 0
    for name, stage in stages.items():
        if stage.stage.epochs is not None:
            first, last = (epoch - early for epoch in stage.stage.epochs(config))
            start = order.steps_for(first) if first == 0 or initial is None else initial_step(initial)
            end = order.steps_for(last)
            if config.schedule.kind == "plateau" and stage.is_done:
                end = _last_step(stage)
                early, last = early + last - int(order.epoch_of(end)), int(order.epoch_of(end))
            spans[name] = Span(start, end, last)
    return spans


def depends_on_validation(config: Config, placed: Mapping[str, PlacedStage]) -> bool:
    """Return whether a plateau schedule has still to say where training ends."""
    first = next(stage for stage in placed.values() if stage.stage.is_training)
    return config.schedule.kind == "plateau" and not first.is_done


def _last_step(stage: PlacedStage) -> int:
    seal = read_seal(stage.directory, "stage")
    assert seal is not None, "the stage is done"
    return int(seal.about["metrics"]["global_step"])


def steps_done(stage: PlacedStage, span: Span) -> int:
    """Return the number of steps of its span that the stage has finished, by its events."""
    if stage.is_done:
        return span.last - span.first
    events = train_events(stage.directory)
    return max(0, events[-1]["global_step"] - span.first) if events else 0


def train_events(directory: Path) -> list[Event]:
    """Return the last events of kind `train` of a stage."""
    return [event for event in read_last_events(directory) if event["kind"] == "train"]


def training_rate(config: Config, placed: Mapping[str, PlacedStage], run: str = "this run") -> Rate | None:
    """Return the throughput that the run itself, called `run`, measured last, or else the recipe's expectation, or
    None."""
    for name, stage in reversed(list(placed.items())):
        if not stage.stage.is_training:
            continue
        events = train_events(stage.directory)
        # A newer attempt, perhaps at another world size, may not have measured anything yet.
        measured = [each for each in read_attempts(stage.directory) if events and each.start <= events[-1]["time"]]
        if measured:
            own = [event["images_per_second"] for event in events if event["time"] >= measured[-1].start]
            speed = statistics.median(own[-_RECENT_EVENTS:]) / measured[-1].world_size
            return Rate(speed, f"measured in {run}'s {name}")
    expected = config.resources.expected_images_per_second
    return None if expected is None else Rate(expected, "resources.expected_images_per_second")


def evaluated_images(config: Config, placed: Mapping[str, PlacedStage]) -> Images:
    """Count the rows of prepare's index if that is done; else the files in the folder, or as published."""
    split = config.evaluate.split
    part = parts_of(placed).get(f"prepare-{split}")
    if part is not None and part.is_done:
        return _indexed(part.directory)
    if config.data.is_cifar:
        return Images(_CIFAR_EVALUATED, "as published; prepare is to check it")
    name = config.data.val if split == "val" else config.data.test
    folder = None if config.data.root is None or name is None else Path(config.data.root) / name
    if folder is not None and folder.is_dir():
        return Images(sum(len(files) for _, _, files in os.walk(folder)), f"files in {folder}")
    if config.data.dataset == "imagenet":
        return Images(_PUBLISHED_EVALUATED[split], "as published; prepare is to check it")
    return Images(None, "unknown until prepare is done")


def _indexed(directory: Path) -> Images:
    try:
        return Images(len(read_index(directory)), "as prepare found")
    except (OSError, ValueError, KeyError, TypeError):
        return Images(None, f"unknown: the index in {directory} is damaged")


def evaluation_rate(placed: Mapping[str, PlacedStage]) -> Rate | None:
    """Return how many forward passes a second the run's latest evaluation made, all processes together; or None."""
    run = placed["evaluate"].directory.parent
    done = [place for place in run.glob("evaluate-*/results.json") if is_sealed(place.parent)]
    for path in sorted(done, key=lambda place: place.stat().st_mtime, reverse=True):
        results = json.loads(path.read_text())
        seconds = sum(plan["seconds"] for plan in results["plans"])
        if seconds:
            passes = sum(plan["images"] * plan["crops"] for plan in results["plans"])
            return Rate(passes / seconds, f"measured in {path.parent.name}, on {results['device']}")
    return None


def process_memory(config: Config, micro_batch: int) -> Memory:
    """Return a lower bound of training's memory, by the network's layer table."""
    cost = network_cost(config)
    is_wide = config.execution.precision == "float32"
    per_image = cost.activation_bytes_float32 if is_wide else cost.activation_bytes_16bit
    return Memory(12 * cost.parameters, micro_batch * per_image)


def checkpoint_bytes(config: Config) -> int:
    """Return the size of one checkpoint: weights, momentum and running statistics in float32."""
    cost = network_cost(config)
    return 4 * (2 * cost.parameters + cost.buffers)


def network_cost(config: Config) -> Cost:
    """Return the cost of the network by its layer table; if the recipe changes its block, that of the unchanged one."""
    return Cost.of(layer_table(config.model.name, config.model.reckoned_classes, config.train.image_size_px))


def kept_checkpoints(config: Config) -> int:
    """Return the number of checkpoints that a training stage keeps."""
    return config.checkpoint.keep_last + config.checkpoint.keep_best
