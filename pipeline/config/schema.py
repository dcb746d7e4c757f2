"""Every key of a recipe: its type, its default and its meaning.

A `Config` is frozen and complete: code takes the section it needs and never looks a key up by name or invents a
default. A field is a result unless it is marked as an operation or a check (see `section.Kind`).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.config.data import AugmentationConfig, DataConfig, InputConfig
from pipeline.config.engines import (
    ENGINES,
    ApexConfig,
    DeepSpeedConfig,
    EngineName,
    NativeConfig,
    describe_engine,
    ignored_sections,
    native_problems,
)
from pipeline.config.evaluation import EvaluateConfig, ReportConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.fusion import FuseConfig
from pipeline.config.network import ModelConfig
from pipeline.config.operations import CheckpointConfig, LoaderConfig, ResourcesConfig, TrackingConfig
from pipeline.config.section import OPERATION, Natural, Section
from pipeline.config.training import FreezeBnConfig, OptimConfig, ScheduleConfig, TrainConfig
from pipeline.networks.layers import POOLING, layer_table
from pipeline.networks.registry import NETWORKS


class Config(Section):
    """A recipe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the run's directory, unless `--run` does, and the report."""
    seed: Natural = 2017
    """Of the initial weights, the images' order and crops, dropout and jitter: all that is drawn at random."""
    data: DataConfig
    input: InputConfig = InputConfig()
    model: ModelConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    optim: OptimConfig
    schedule: ScheduleConfig
    train: TrainConfig
    freeze_bn: FreezeBnConfig = FreezeBnConfig()
    execution: ExecutionConfig = ExecutionConfig()
    engine: Annotated[EngineName, OPERATION] = "native"
    """Engine that computes and applies the gradients. Its own section below may be left out; the others' must be."""
    native: Annotated[NativeConfig | None, OPERATION] = None
    apex: Annotated[ApexConfig | None, OPERATION] = None
    deepspeed: Annotated[DeepSpeedConfig | None, OPERATION] = None
    evaluate: EvaluateConfig = EvaluateConfig()
    fuse: FuseConfig = FuseConfig()
    report: ReportConfig = ReportConfig()
    loader: LoaderConfig = LoaderConfig()
    checkpoint: Annotated[CheckpointConfig, OPERATION] = CheckpointConfig()
    tracking: Annotated[TrackingConfig, OPERATION] = TrackingConfig()
    resources: Annotated[ResourcesConfig, OPERATION] = ResourcesConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = []
        if self.train.frozen_epochs >= self.train.epochs:
            problems.append(
                f"train.frozen_epochs: must be less than train.epochs = {self.train.epochs} "
                f"(given {self.train.frozen_epochs})"
            )
        if self.data.dataset == "imagenet" and self.model.num_classes not in (None, 1000):
            problems.append(
                f"model.num_classes: ImageNet has 1000 classes (given {self.model.num_classes}); for other images "
                "write data.dataset=folder, and model.num_classes=null to have them counted"
            )
        num_classes = {"digits": 10, "cifar10": 10, "cifar100": 100}.get(self.data.dataset)
        if num_classes is not None and self.model.num_classes not in (None, num_classes):
            problems.append(
                f"model.num_classes: {self.data.dataset} has {num_classes} classes (given {self.model.num_classes})"
            )
        if self.augmentation.padding == "reflect" and not self.data.is_cifar:
            problems.append(
                "augmentation.padding: reflect is for images in memory, data.dataset cifar10 or cifar100 (given "
                f"{self.data.dataset}); use zero"
            )
        if self.freeze_bn.statistics == "recompute" and (self.train.only_head or self.execution.sync_bn):
            cause = "train.only_head, which keeps all statistics" if self.train.only_head else "execution.sync_bn"
            problems.append(f"freeze_bn.statistics: must be running with {cause} (given recompute)")
        if self.evaluate.split == "test" and self.data.test is None:
            problems.append("evaluate.split: test needs the folder of the test images in data.test (given none)")
        if self.measures_gates and not any(plan.is_one_crop for plan in self.evaluate.plans):
            problems.append(
                "report.activations: needs a plan of one crop of each image, not mirrored, in evaluate.plans (given "
                f"{', '.join(plan.name for plan in self.evaluate.plans)})"
            )
        if self.evaluate.split == "test" and self.fuse.selection != "none":
            problems.append(
                "fuse.selection: test images have no labels to choose on; it must be none, and fuse.weights_from may "
                f"name a fusion of the validation images (given {self.fuse.selection})"
            )
        if self.train.only_head and self.model.weights is None:
            problems.append(
                "train.only_head: a classifier on random features learns little; name weights to begin with in "
                "model.weights, or leave it out"
            )
        problems += self._schedule_problems()
        problems += self._size_problems()
        problems += ignored_sections(self.engine, {name: getattr(self, name) for name in ENGINES})
        if self.engine == "native":
            options = self.native or NativeConfig()
            problems += native_problems(options, self.execution, only_head=self.train.only_head)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _size_problems(self) -> list[str]:
        """List crops that the network cannot take, before weeks of training end in one."""
        name, multiple = self.model.name, NETWORKS[self.model.name].size_multiple
        plans = {"train.validation": (self.train.validation,), "evaluate.plans": self.evaluate.plans}
        crops = [(key, group) for key, given in plans.items() for plan in given for group in plan.crops]
        sizes = [("train.image_size_px", self.train.image_size_px), *((key, group.crop_px) for key, group in crops)]
        problems = [
            f"{key}: must {'have crops of' if key in plans else 'be'} a multiple of {multiple} px for {name} "
            f"(given {'whole images' if px is None else px})"
            for key, px in sizes
            if multiple > 1 and (px is None or px % multiple)
        ]
        slides = {key for key, group in crops if "sliding" in (group.dense, group.pooling)}
        if slides and POOLING not in {layer.name for layer in layer_table(name)}:
            needed = f"sliding windows need a network that averages its last map, not {name}"
            problems += [f"{key}: {needed}" for key in sorted(slides)]
        return list(dict.fromkeys(problems))

    def _schedule_problems(self) -> list[str]:
        problems = []
        if self.schedule.warmup_epochs >= self.train.epochs:
            problems.append(
                f"schedule.warmup_epochs: must be less than train.epochs = {self.train.epochs} "
                f"(given {self.schedule.warmup_epochs})"
            )
        if self.schedule.kind == "plateau":
            if self.train.validate_every_epochs != 1:
                problems.append(
                    "train.validate_every_epochs: must be 1 with schedule.kind plateau, which looks at every epoch "
                    f"(given {self.train.validate_every_epochs})"
                )
            if self.freeze_bn.from_checkpoint is not None:
                problems.append(
                    "freeze_bn.from_checkpoint: not with schedule.kind plateau, whose last epoch follows from the "
                    "run's own validations"
                )
        late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.train.epochs]
        if late:
            earlier = [epoch for epoch in self.schedule.drop_epochs if epoch < self.train.epochs]
            problems.append(
                f"schedule.drop_epochs: must come before train.epochs = {self.train.epochs} (given {late}); write "
                f"schedule.drop_epochs={earlier}, or when else the rate is to drop"
            )
        return problems

    @model_validator(mode="after")
    def _chosen_engine_has_its_section(self) -> Self:
        if getattr(self, self.engine) is None:
            # The one key whose default depends on another: set once, during validation.
            object.__setattr__(self, self.engine, ENGINES[self.engine]())
        return self

    @model_serializer(mode="wrap")
    def _without_other_engines(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if name not in ENGINES or name == self.engine}

    @property
    def train_stage_epochs(self) -> int:
        """Number of epochs before the batch norms freeze."""
        return self.train.epochs - self.train.frozen_epochs

    @property
    def measures_gates(self) -> bool:
        """Whether the gates of the blocks are measured for the report."""
        return self.report.activations and self.without_gates is None

    @property
    def without_gates(self) -> str | None:
        """Why there are no gates to measure, or None if there are."""
        if self.model.block is None:
            return "the network has no squeeze-and-excitation blocks"
        is_test = self.evaluate.split == "test"
        return "evaluate.split is test, and they are measured over validation images" if is_test else None

    @property
    def engine_in_words(self) -> str:
        """Return the engine and its non-default options, for people and for a checkpoint's record."""
        return describe_engine(self.engine, getattr(self, self.engine))
