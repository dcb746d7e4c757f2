"""Operations: how a run is carried out, never what it computes; no part of any stage's key, but for the backend."""

from __future__ import annotations

from typing import Literal

from pipeline.config.section import PositiveFloat, PositiveInt, Section


class LoaderConfig(Section):
    """How images are read and decoded."""

    backend: Literal["dali", "reference"] = "dali"
    """reference is the torchvision loader that DALI is tested against."""
    threads: PositiveInt = 2
    """Decoding threads per process."""
    prefetch: PositiveInt = 2
    """Batches decoded ahead."""
    decode: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: on the GPU where there is one. The two do not round alike: training goes on from a checkpoint only with
    the one that it began with, evaluation with either."""


class CheckpointConfig(Section):
    """When to save, and how much to keep."""

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    """Also save after this many steps."""
    keep_last: PositiveInt = 2
    keep_best: bool = True
    """Also keep the checkpoint with the lowest validation top-1 error of those that were taken right after one."""


class TrackingConfig(Section):
    """Logging; the run's own event files are the record, Weights & Biases is a copy."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online where an API key is set, else offline."""
    project: str = "senet154"
    entity: str | None = None
    log_every_steps: PositiveInt = 10
    upload_scores: bool = True
    """Whether Weights & Biases also gets the score files: for ImageNet 100 MB for each crop plan."""


class ResourcesConfig(Section):
    """What the run is given, and what it may expect."""

    processes: PositiveInt = 1
    """Processes of the training and evaluating stages, one per GPU; `launch run` starts them on this machine."""
    expected_images_per_second: PositiveFloat | None = None
    """Training throughput per process that `plan` reckons with until the run has measured its own."""
    collective_timeout_seconds: PositiveInt = 600
