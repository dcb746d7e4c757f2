"""Every key of a recipe: its type, its default and what it means.

A `Config` is frozen and complete: code takes the section it needs and never looks a key up by name or invents a
default. Keys under `loader` (but for its backend), `checkpoint`, `tracking` and `resources` are operations: they change
how a run is carried out and never what it computes, so they are no part of any stage's key.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import CropPlan, resolve_plan
from pipeline.config.section import (
    Fraction,
    Names,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    Triple,
    as_tuple,
)


class DataConfig(Section):
    """Where the images are and what is promised about them."""

    dataset: Literal["imagenet", "folder", "digits"]
    """imagenet: ILSVRC 2012 with its counts and labels checked. folder: any tree of one folder per class. digits: the
    handwritten digits that come with scikit-learn, written out as JPEG folders."""
    root: str | None = None
    """Folder that holds the train and val folders; relative paths start at the working directory. Not for digits."""
    train: str = "train"
    """Training images below root, in one folder per class."""
    val: str = "val"
    """Validation images below root: in one folder per class, or (imagenet) flat with `val_ground_truth`."""
    val_ground_truth: str | None = None
    """The devkit's ILSVRC2012_validation_ground_truth.txt, for a flat `val`."""
    exclude: Names = ()
    """Images to leave out, by name as `prepare` lists them (`train/n01440764/x.JPEG`)."""
    mean: Triple = (123.675, 116.28, 103.53)
    """RGB mean that is subtracted, on the 0 to 255 scale."""
    std: Triple = (58.395, 57.12, 57.375)
    """RGB scale that is divided by, on the 0 to 255 scale."""

    @model_validator(mode="after")
    def _root_where_needed(self) -> Self:
        if self.dataset == "digits" and self.root is not None:
            raise ValueError("root: the digits come with scikit-learn; leave data.root out")
        if self.dataset != "digits" and self.root is None:
            raise ValueError(f"root: the folder with the images is needed for dataset '{self.dataset}'")
        if self.val_ground_truth is not None and self.dataset != "imagenet":
            raise ValueError("val_ground_truth: only dataset 'imagenet' has a ground-truth file")
        if min(self.std) <= 0:
            raise ValueError(f"std: must be positive (given {list(self.std)})")
        return self


class ModelExpectation(Section):
    """What the recipe claims about the network; `build` stops the run where it is not so."""

    parameters: PositiveInt
    gmacs: PositiveFloat
    """Multiply-adds of convolutions and the classifier for one image of train.image_size_px, in 1e9."""
    layer_table: bool = False
    """Whether every layer must agree with the authors' table of SENet-154."""


class ModelConfig(Section):
    """The network."""

    name: Literal["senet154", "senet_nano"]
    num_classes: PositiveInt
    dropout: Fraction = 0.2
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics (PyTorch's convention)."""
    expect: ModelExpectation | None = None


class AugmentationConfig(Section):
    """What is done to a training image at random."""

    area: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = (0.08, 1.0)
    """Share of the image that the random crop covers."""
    aspect: Annotated[tuple[float, float], BeforeValidator(as_tuple)] = (0.75, 4 / 3)
    """Aspect ratio of the random crop, drawn log-uniformly."""
    flip: bool = True
    rotation_degrees: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Rotation by a uniform angle in ± this many degrees."""
    pixel_jitter: NonNegative = 0.0
    """A uniform value in ± this is added to each pixel and channel, on the 0 to 255 scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise ValueError(f"area: must satisfy 0 < low <= high <= 1 (given {[low, high]})")
        low, high = self.aspect
        if not 0 < low <= high:
            raise ValueError(f"aspect: must satisfy 0 < low <= high (given {[low, high]})")
        return self


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


class ExecutionConfig(Section):
    """How the arithmetic is done. Part of the stages' keys: it can change the last bits of a result."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type; float16 adds a gradient scaler."""
    channels_last: bool = True
    compile: bool = False


class EvaluateConfig(Section):
    """The final evaluation."""

    weights: str | None = None
    """A weight file to evaluate instead of the run's own weights."""
    plans: Annotated[tuple[str | CropPlan, ...], BeforeValidator(as_tuple), Field(min_length=1)] = ("center224",)
    """Built-in plans by name (center224, center320, 10crop), or plans written out."""
    batch: PositiveInt = 64
    """Images decoded at once; each passes through the network once per view."""

    @model_validator(mode="after")
    def _plans_known_and_distinct(self) -> Self:
        names = [resolve_plan(plan, "plans").name for plan in self.plans]
        if len(set(names)) != len(names):
            raise ValueError(f"plans: each name once (given {names})")
        return self

    def resolved_plans(self) -> tuple[CropPlan, ...]:
        """The plans, with built-in names looked up."""
        return tuple(resolve_plan(plan, "plans") for plan in self.plans)


class LoaderConfig(Section):
    """How images are read and decoded."""

    backend: Literal["dali", "reference"] = "dali"
    """reference is the torchvision loader that DALI is tested against."""
    threads: PositiveInt = 2
    """Decoding threads per process."""
    prefetch: PositiveInt = 2
    """Batches decoded ahead."""
    decode: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: on the GPU where there is one."""


class CheckpointConfig(Section):
    """When to save, and how much to keep."""

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    """Also save after this many steps."""
    keep_last: PositiveInt = 2
    keep_best: bool = True
    """Also keep the checkpoint with the lowest validation top-1 error."""


class TrackingConfig(Section):
    """Logging; the run's own event files are the record, Weights & Biases is a copy."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online where an API key is set, else offline."""
    project: str = "senet154"
    entity: str | None = None
    log_every_steps: PositiveInt = 10


class ResourcesConfig(Section):
    """What the run is given, and what it may expect."""

    processes: PositiveInt = 1
    """Processes of the training and evaluating stages, one per GPU; `launch run` starts them on this machine."""
    expected_images_per_second: PositiveFloat | None = None
    """Training throughput per process that `plan` reckons with until the run has measured its own."""
    collective_timeout_seconds: PositiveInt = 600


class Config(Section):
    """A recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the run's directory and its Weights & Biases group."""
    seed: Natural = 2017
    data: DataConfig
    model: ModelConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    optim: OptimConfig
    schedule: ScheduleConfig
    train: TrainConfig
    freeze_bn: FreezeBnConfig
    execution: ExecutionConfig = ExecutionConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    loader: LoaderConfig = LoaderConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = []
        if self.freeze_bn.last_epochs >= self.train.epochs:
            problems.append(
                f"freeze_bn.last_epochs: must be less than train.epochs = {self.train.epochs} "
                f"(given {self.freeze_bn.last_epochs})"
            )
        if self.data.dataset == "imagenet" and self.model.num_classes != 1000:
            problems.append(f"model.num_classes: ImageNet has 1000 classes (given {self.model.num_classes})")
        if self.data.dataset == "digits" and self.model.num_classes != 10:
            problems.append(f"model.num_classes: there are 10 digits (given {self.model.num_classes})")
        if self.schedule.warmup_epochs >= self.train.epochs:
            problems.append(
                f"schedule.warmup_epochs: must be less than train.epochs = {self.train.epochs} "
                f"(given {self.schedule.warmup_epochs})"
            )
        late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.train.epochs]
        if late:
            problems.append(f"schedule.drop_epochs: must come before train.epochs = {self.train.epochs} (given {late})")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def train_stage_epochs(self) -> int:
        """Epochs before the batch norms freeze."""
        return self.train.epochs - self.freeze_bn.last_epochs
