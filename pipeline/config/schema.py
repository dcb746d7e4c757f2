"""Every key of a recipe: its type, its default and what it means.

A `Config` is frozen and complete: code takes the section it needs and never looks a key up by name or invents a
default. The engine, its options and the keys under `loader` (but for its backend), `checkpoint`, `tracking` and
`resources` are operations: they change how a run is carried out and never what it computes, so they are no part of any
stage's key.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.config.data import AugmentationConfig, DataConfig
from pipeline.config.engines import (
    ENGINES,
    ApexConfig,
    DeepSpeedConfig,
    EngineName,
    NativeConfig,
    apex_problems,
    describe_engine,
    ignored_sections,
    native_problems,
)
from pipeline.config.evaluation import EvaluateConfig, ReportConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.fusion import FuseConfig
from pipeline.config.network import ModelConfig
from pipeline.config.operations import CheckpointConfig, LoaderConfig, ResourcesConfig, TrackingConfig
from pipeline.config.section import Natural, Section
from pipeline.config.training import FreezeBnConfig, OptimConfig, ScheduleConfig, TrainConfig


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
    engine: EngineName = "native"
    """What computes and applies the gradients. Its own section below may be left out; the others' must be."""
    native: NativeConfig | None = None
    apex: ApexConfig | None = None
    deepspeed: DeepSpeedConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    fuse: FuseConfig = FuseConfig()
    report: ReportConfig = ReportConfig()
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
        if self.evaluate.split == "test" and self.data.test is None:
            problems.append("evaluate.split: test needs the folder of the test images in data.test (given none)")
        if self.evaluate.split == "test" and self.fuse.selection != "none":
            problems.append(
                "fuse.selection: test images have no labels to choose on; it must be none, and fuse.member_weights may "
                f"name a fusion of the validation images (given {self.fuse.selection})"
            )
        late = [epoch for epoch in self.schedule.drop_epochs if epoch >= self.train.epochs]
        if late:
            problems.append(f"schedule.drop_epochs: must come before train.epochs = {self.train.epochs} (given {late})")
        problems += ignored_sections(self.engine, {name: getattr(self, name) for name in ENGINES})
        if self.engine == "native":
            problems += native_problems(self.native or NativeConfig(), self.execution)
        if self.engine == "apex":
            problems += apex_problems(self.apex or ApexConfig(), self.execution)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _chosen_engine_has_its_section(self) -> Self:
        if getattr(self, self.engine) is None:
            # The one key whose default depends on another: set once, before anybody sees the config.
            object.__setattr__(self, self.engine, ENGINES[self.engine]())
        return self

    @model_serializer(mode="wrap")
    def _without_other_engines(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if name not in ENGINES or name == self.engine}

    @property
    def train_stage_epochs(self) -> int:
        """Epochs before the batch norms freeze."""
        return self.train.epochs - self.freeze_bn.last_epochs

    @property
    def engine_in_words(self) -> str:
        """The engine and what is special about it, for people and for a checkpoint's record."""
        return describe_engine(self.engine, getattr(self, self.engine))
