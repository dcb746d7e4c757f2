"""Execution of a run: operations, except for the loader's backend and its upsampling."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config.section import OPERATION, Names, Natural, PositiveFloat, PositiveInt, Section

_LONGEST_TAG = 64


class LoaderConfig(Section):
    """Reading and decoding of images."""

    backend: Literal["dali", "reference"] = "dali"
    """reference is the torchvision loader that serves as the test oracle of DALI."""
    decoder: Annotated[Literal["auto", "dali", "threads"], OPERATION] = "auto"
    """The decoder on the CPU for backend dali, with the same pixels (of CMYK JPEGs to 1 of 255). dali: no more of an
    image than a training crop needs. threads: torchvision in threads. auto: dali, but threads where an evaluation takes
    several crops of a split of 16,384 images or more."""
    threads: Annotated[PositiveInt, OPERATION] = 2
    """Decoding threads per process."""
    prefetch_images: Annotated[PositiveInt, OPERATION] = 1024
    """Images (in an evaluation: crops) that wait decoded for the network, per process: at 2,000 images a second half a
    second's, 150 KB each at 224 px. Whole micro-batches, one at least."""
    decode_batch: Annotated[PositiveInt, OPERATION] = 128
    """Images (in an evaluation: crops) decoded at once. Whole micro-batches, one at least."""
    decode: Annotated[Literal["auto", "cpu", "gpu"], OPERATION] = "auto"
    """auto: on the GPU if there is one. The two round differently; a change is printed and recorded."""
    fancy_upsampling: bool = False
    """Whether a GPU interpolates the chroma of a JPEG between its samples, as the CPU always does, or repeats them."""
    hw_decoder_load: Annotated[float, Field(ge=0, le=1), OPERATION] = 1.0
    """Share of a batch that a GPU with a JPEG engine decodes in it. With 0 or 1 an image's pixels depend on it alone;
    between them its place in the batch chooses the decoder, whose last bits may differ. Evaluations take 0 or 1,
    whichever is closer."""
    preallocate_px: Annotated[Natural, OPERATION] = 0
    """Side of a square image for which the JPEG engine's memory is allocated at the start; 0: it grows with the
    images."""

    @model_validator(mode="after")
    def _decoder_of_backend(self) -> Self:
        if self.backend == "reference" and self.decoder == "dali":
            raise ValueError("decoder: backend 'reference' decodes by threads; leave it out (given dali)")
        return self


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

    @field_validator("tags")
    @classmethod
    def _as_the_server_takes_them(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [tag for tag in tags if not 1 <= len(tag) <= _LONGEST_TAG]
        if wrong:
            raise ValueError(f"must be of 1 to {_LONGEST_TAG} characters each (given {wrong[0]!r})")
        return tags


class ResourcesConfig(Section):
    """Processes and expected throughput of a run."""

    processes: PositiveInt = 1
    """Processes of the training and evaluating stages, one per GPU; `launch run` starts them on this machine."""
    expected_images_per_second: PositiveFloat | None = None
    """Training throughput per process that `plan` assumes until the run has measured its own."""
    collective_timeout_seconds: PositiveInt = 600
    """A process that hears nothing from the others for so long ends with an error."""
