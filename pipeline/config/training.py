"""Optimizer, schedule and the training itself."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import CropPlan, resolve_plan
from pipeline.config.section import Fraction, Natural, NonNegative, PositiveFloat, PositiveInt, Section, as_tuple


class OptimConfig(Section):
    """Synchronous SGD."""

    lr: PositiveFloat
    """Learning rate for the *global* batch; it is never rescaled."""
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 1e-4
    decay: Literal["all", "weights"] = "all"
    """all: every parameter decays, as Caffe and fb.resnet.torch did. weights: batch norms and biases do not."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum (given optim.momentum 0)")
        return self


class ScheduleConfig(Section):
    """The learning rate over the run, as a function of the epoch (fractional, so it changes at every step)."""

    kind: Literal["step", "cosine"] = "step"
    drop_epochs: Annotated[tuple[PositiveFloat, ...], BeforeValidator(as_tuple)] = ()
    """Epochs after which the rate is multiplied by drop_factor; kind step."""
    drop_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: NonNegative = 0.0
    """Linear from lr / steps of the warm-up to lr."""

    @model_validator(mode="after")
    def _drops_belong_to_step(self) -> Self:
        if self.kind == "cosine" and self.drop_epochs:
            raise ValueError("drop_epochs: kind 'cosine' has no drops")
        if list(self.drop_epochs) != sorted(set(self.drop_epochs)):
            raise ValueError(f"drop_epochs: must increase (given {list(self.drop_epochs)})")
        return self


class TrainConfig(Section):
    """The training itself."""

    epochs: PositiveInt
    """All epochs, those with frozen batch norms included."""
    global_batch: PositiveInt
    """Images per optimizer step over all processes, whatever their number."""
    max_micro_batch: PositiveInt
    """Images that one process takes through the network at once, at most; the batch norms see this many."""
    image_size_px: PositiveInt = 224
    label_smoothing: Fraction = 0.1
    validate_every_epochs: PositiveInt = 1
    validation: str | CropPlan = "center224"
    """The crop plan of the validation during training: a built-in one by name, or one written out."""

    @model_validator(mode="after")
    def _validation_known(self) -> Self:
        resolve_plan(self.validation, "validation")
        return self

    def resolved_validation(self) -> CropPlan:
        """The crop plan of the validation, with a built-in name looked up."""
        return resolve_plan(self.validation, "validation")


class FreezeBnConfig(Section):
    """The paper's last epochs, in which "the parameters of all BN layers were frozen"."""

    last_epochs: Natural
    """How many of train.epochs have frozen batch norms; 0 leaves the stage out."""
    scope: Literal["statistics", "statistics_and_affine"] = "statistics_and_affine"
    from_checkpoint: str | None = None
    """Go on from this checkpoint directory instead of the train stage's last one (also `--from-checkpoint`)."""
