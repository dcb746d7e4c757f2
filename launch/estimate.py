"""What a run will take, reckoned from the recipe and from what the run has measured so far."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from pipeline.config.schema import Config
from pipeline.data.order import StreamOrder
from pipeline.networks.spec import SPECS, activation_bytes, count_buffers, count_parameters
from pipeline.running.attempts import read_attempts
from pipeline.running.stage import PlacedStage
from pipeline.tracking.events import read_events
from pipeline.training.initial_checkpoint import initial_step

TRAINING_STAGES = ("train", "freeze_bn")
_PUBLISHED_IMAGES = {"imagenet": 1_281_167, "digits": 1_438}
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
    """Of one process."""
    source: str


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the device of one process."""

    parameters: int
    """Weights, their gradients and momentum, in float32."""
    activations: int
    """What backward needs again of one micro-batch."""

    @property
    def total(self) -> int:
        """Both; workspaces of single operations, the loader and the CUDA context come on top."""
        return self.parameters + self.activations


def training_images(config: Config, placed: Mapping[str, PlacedStage]) -> Images:
    """Counted in prepare's index where that is done, else as published; unknown for other datasets."""
    prepare = placed["prepare"]
    if prepare.is_done:
        with (prepare.directory / "train.tsv").open("rb") as table:
            return Images(sum(1 for _ in table) - 1, "as prepare found")
    count = _PUBLISHED_IMAGES.get(config.data.dataset)
    if count is None:
        return Images(None, "unknown until prepare is done")
    return Images(count, "as published; prepare is to check it")


def stream_order(config: Config, images: int) -> StreamOrder:
    """The order in which the run sees its training images."""
    return StreamOrder(images, config.train.global_batch, config.seed)


def step_spans(config: Config, order: StreamOrder, stages: Mapping[str, PlacedStage]) -> dict[str, Span]:
    """The steps of each training stage among `stages`."""
    middle = order.steps_for(config.train_stage_epochs)
    origin = config.freeze_bn.from_checkpoint
    start = middle if origin is None else initial_step(origin)
    spans = {
        "train": Span(0, middle, config.train_stage_epochs),
        "freeze_bn": Span(start, order.steps_for(config.train.epochs), config.train.epochs),
    }
    return {name: span for name, span in spans.items() if name in stages}


def steps_done(stage: PlacedStage, span: Span) -> int:
    """How many steps of its span the stage has behind it, as its record says."""
    if stage.is_done:
        return span.last - span.first
    steps = [event["global_step"] for event in read_events(stage.directory, "train")]
    return max(0, steps[-1] - span.first) if steps else 0


def training_rate(config: Config, placed: Mapping[str, PlacedStage]) -> Rate | None:
    """As the run itself measured last, else as the recipe expects; None where neither is known."""
    for name in reversed(TRAINING_STAGES):
        if name not in placed:
            continue
        directory = placed[name].directory
        speeds = [event["images_per_second"] for event in read_events(directory, "train")][-_RECENT_EVENTS:]
        attempts = read_attempts(directory)
        if speeds and attempts:
            return Rate(statistics.median(speeds) / attempts[-1].world_size, f"measured in this run's {name}")
    expected = config.resources.expected_images_per_second
    return None if expected is None else Rate(expected, "resources.expected_images_per_second")


def process_memory(config: Config, micro_batch: int) -> Memory:
    """What training needs at least, by the network's layer table."""
    spec = SPECS[config.model.name]
    bytes_per_value = 4 if config.execution.precision == "float32" else 2
    per_image = activation_bytes(spec, config.train.image_size_px, bytes_per_value)
    return Memory(12 * count_parameters(spec, config.model.num_classes), micro_batch * per_image)


def checkpoint_bytes(config: Config) -> int:
    """Size of one checkpoint: weights, momentum and running statistics in float32."""
    spec = SPECS[config.model.name]
    classes = config.model.num_classes
    return 4 * (2 * count_parameters(spec, classes) + count_buffers(spec, classes))


def kept_checkpoints(config: Config) -> int:
    """How many checkpoints a training stage keeps."""
    return config.checkpoint.keep_last + config.checkpoint.keep_best
