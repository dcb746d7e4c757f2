"""Execution of a run: operations, except for the loader's backend."""

from __future__ import annotations

from typing import Annotated, Literal

from pipeline.config.section import OPERATION, Names, PositiveFloat, PositiveInt, Section


class LoaderConfig(Section):
    """Reading and decoding of images."""

    backend: Literal["dali", "reference"] = "dali"
    """reference is the torchvision loader that serves as the test oracle of DALI."""
    threads: Annotated[PositiveInt, OPERATION] = 2
    """Decoding threads per process."""
    prefetch: Annotated[PositiveInt, OPERATION] = 2
    """Batches decoded ahead."""
    decode: Annotated[Literal["auto", "cpu", "gpu"], OPERATION] = "auto"
    """auto: on the GPU if there is one. The two round differently; a change is printed and recorded."""


class CheckpointConfig(Section):
    """Frequency and retention of checkpoints."""

    every_epochs: PositiveInt = 1
    """Save after every so many epochs, and at the end of the stage."""
    every_steps: PositiveInt | None = None
    """Also save after this many steps."""
    keep_last: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    keep_best: bool = True
    """Also keep the checkpoint with the lowest validation top-1 error of those taken right after a validation."""


class TrackingConfig(Section):
    """Logging; the run's own event files are the record, Weights & Biases is a copy."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online if an API key is set, else offline."""
    project: str = "senet154"
    """The project in Weights & Biases."""
    entity: str | None = None
    """The user or team there; null: the account's own."""
    log_every_steps: PositiveInt = 10
    """Loss, rate and speed are recorded after every so many steps."""
    upload_scores: bool = True
    """Whether score files are uploaded to Weights & Biases: for ImageNet 100 MB for each crop plan."""
    upload_weights: bool = False
    """Whether the trained weights are uploaded too, an artifact with the aliases latest and best; `plan` says how
    large."""
    tags: Names = ()
    """Tags of the run in Weights & Biases, beside the names of its network and dataset."""


class ResourcesConfig(Section):
    """Processes and expected throughput of a run."""

    processes: PositiveInt = 1
    """Processes of the training and evaluating stages, one per GPU; `launch run` starts them on this machine."""
    expected_images_per_second: PositiveFloat | None = None
    """Training throughput per process that `plan` assumes until the run has measured its own."""
    collective_timeout_seconds: PositiveInt = 600
    """A process that hears nothing from the others for so long ends with an error."""
