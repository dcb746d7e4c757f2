"""Optimizer, schedule and the training itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import Plan, builtin_plan
from pipeline.config.section import (
    IS_PATH,
    OPERATION,
    Fraction,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    as_tuple,
)


class OptimConfig(Section):
    """Synchronous SGD."""

    lr: PositiveFloat
    """Learning rate for the *global* batch; it is never rescaled."""
    momentum: Fraction = 0.9
    """Share of the last step's direction that is kept."""
    nesterov: bool = False
    """Whether the gradient is looked ahead along the momentum, as Nesterov's method does."""
    weight_decay: NonNegative = 1e-4
    """Factor of each weight that is added to its gradient."""
    decay: Literal["all", "weights"] = "all"
    """all: every parameter decays, as Caffe and fb.resnet.torch did. weights: batch norms and biases do not."""

    head_lr_factor: PositiveFloat = 1.0
    """The classifier learns at `lr` times this: more than 1 where it is new and the rest of the network is not."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum (given optim.momentum 0)")
        return self


_OF_PLATEAU = ("patience", "threshold", "smallest_lr", "max_drops")


class ScheduleConfig(Section):
    """The learning rate over the run, as a function of the epoch, fractions included, or of the step."""

    kind: Literal["step", "cosine", "plateau"] = "step"
    """step: the rate falls at `drop_epochs`. cosine: it falls along half a cosine, to 0 at the end. plateau: it falls
    when the validation loss has stopped falling, and the number of epochs, at most `train.epochs`, may follow from
    it."""
    drop_epochs: Annotated[tuple[PositiveFloat, ...], BeforeValidator(as_tuple)] = ()
    """Epochs after which the rate is multiplied by drop_factor; kind step."""
    drop_steps: Annotated[tuple[PositiveInt, ...], BeforeValidator(as_tuple)] = ()
    """Optimizer steps after which the rate is multiplied by drop_factor, in the place of `drop_epochs`."""
    drop_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the rate is multiplied by at each drop."""
    patience: Natural = 10
    """The rate drops after more than so many epochs in a row whose loss is no better than the best before; kind
    plateau."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """The share of the best loss by which a better one must be lower; kind plateau."""
    smallest_lr: NonNegative = 0.0
    """The rate falls no lower; kind plateau."""
    max_drops: PositiveInt | None = None
    """Training ends where the rate would drop once more after so many drops; kind plateau. null: it goes on to
    `train.epochs`."""
    warmup_epochs: NonNegative = 0.0
    """Length of the linear warm-up from lr / steps of the warm-up to lr."""
    warmup_steps: Natural = 0
    """Length of the warm-up in optimizer steps, in the place of `warmup_epochs`."""
    warmup_lr: PositiveFloat | None = None
    """The rate of the whole warm-up, which then does not rise; null: it is linear."""

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> Self:
        drops = next((name for name in ("drop_epochs", "drop_steps") if getattr(self, name)), None)
        if self.kind == "cosine" and drops:
            raise ValueError(f"{drops}: kind 'cosine' has no drops")
        if self.kind == "plateau" and drops:
            raise ValueError(f"{drops}: kind 'plateau' drops when the validation loss says so; write {drops}=[]")
        if self.kind != "plateau":
            fields = {name: type(self).model_fields[name].default for name in _OF_PLATEAU}
            if idle := [name for name, default in fields.items() if getattr(self, name) != default]:
                raise ValueError("\n".join(f"{name}: only kind 'plateau' has it (given {self.kind})" for name in idle))
        for name in ("drop_epochs", "drop_steps"):
            if (given := list(getattr(self, name))) != sorted(set(given)):
                raise ValueError(f"{name}: must increase (given {given})")
        return self

    @model_validator(mode="after")
    def _lengths_have_one_unit(self) -> Self:
        for epochs, steps in (("drop_epochs", "drop_steps"), ("warmup_epochs", "warmup_steps")):
            if getattr(self, epochs) and getattr(self, steps):
                raise ValueError(f"{steps}: write this or {epochs}, not both")
        if self.warmup_lr is not None and not (self.warmup_epochs or self.warmup_steps):
            raise ValueError("warmup_lr: needs a length in warmup_epochs or warmup_steps")
        return self


class TrainConfig(Section):
    """Length, batch sizes and validation of the training."""

    epochs: PositiveInt
    """Number of epochs, those with frozen batch norms included."""
    frozen_epochs: Natural = 0
    """Number of last epochs with frozen batch norms; 0 omits the stage freeze_bn."""
    global_batch: PositiveInt
    """Images per optimizer step over all processes, at any world size."""
    max_micro_batch: PositiveInt
    """Upper bound of the images per process and forward pass; the batch norms see this many."""
    image_size_px: Annotated[PositiveInt, Field(ge=3)] = 224
    """Side of the random crops that the network is trained on."""
    only_head: bool = False
    """Whether the classifier alone learns, and all else stays as in `model.weights`, batch norms' statistics too."""
    bn_statistics: Literal["rank0", "mean"] = "rank0"
    """Whose running means and variances of the batch norms are validated and saved. rank0: the main process's, of its
    own share of the images. mean: the mean over all processes, taken after each step."""
    label_smoothing: Fraction = 0.1
    """Share of the target that is spread evenly over all classes."""
    validate_every_epochs: Annotated[PositiveInt, OPERATION] = 1
    """The validation images are scored after every so many epochs, and at the end of the stage."""
    validation: Plan = builtin_plan("center224")
    """The crop plan of the validation during training: a built-in one by name, or one written out."""


class FreezeBnConfig(Section):
    """The paper's last epochs, in which "the parameters of all BN layers were frozen"."""

    scope: Literal["statistics", "statistics_and_affine"] = "statistics_and_affine"
    """What is frozen of each batch norm. statistics: its running mean and variance. statistics_and_affine: scale and
    shift as well."""
    statistics: Literal["running", "recompute"] = "running"
    """Which running means and variances are frozen. running: those that training left (see `train.bn_statistics`), an
    average over about 19 micro-batches with a BN momentum of 0.1. recompute: a plain average over the micro-batches of
    the next `statistics_images` training images."""
    statistics_images: PositiveInt = 16384
    """Number of images for `statistics: recompute`, rounded up to whole steps."""
    from_checkpoint: Annotated[str | None, OPERATION, IS_PATH] = None
    """Resume from this checkpoint directory instead of the train stage's last one (also `--from-checkpoint`)."""
