"""The pipeline's stages: their declarations. Each one's code is the module of its name, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.evaluation.members import find_scores, fusion_file
from pipeline.running.named_weights import resolve_weights
from pipeline.running.other_run import stage_directory
from pipeline.running.stage import Identity, Shape, Stage
from pipeline.store.seal import beside

_TRAINING = ("seed", "input", "model", "augmentation", "optim", "schedule", "train", "execution", "loader")


def evaluate_directory(run: Path) -> Path:
    """Return the sealed directory of a run's evaluation. Raises UserError if that run is not evaluated."""
    return stage_directory(run, "evaluate", STAGES)


def _trains(config: Config) -> bool:
    return config.evaluate.weights is None


def _trained(config: Config) -> tuple[str, ...]:
    """Return the stage whose weights are the run's result; none if a weight file is evaluated instead."""
    if not _trains(config):
        return ()
    return ("freeze_bn",) if config.train.frozen_epochs > 0 else ("train",)


def _of_split(identity: Identity, split: str) -> Identity:
    """Restrict the data's identity to one split."""
    found: dict[str, Any] = dict(identity)
    if split != "train":
        found.pop("data.resize_train_px", None)
    if split == "test":
        found.pop("data.val_fraction", None)
        found.pop("data.split_seed", None)
    excluded = [name for name in found.pop("data.exclude", ()) if name.startswith(f"{split}/")]
    return found | ({"data.exclude": excluded} if excluded else {})


def _ground_truth(config: Config, split: str | None, run: Path) -> tuple[str, ...]:
    return (config.data.val_ground_truth,) if split == "val" and config.data.val_ground_truth is not None else ()


def _initial_weights(config: Config, split: str | None, run: Path) -> tuple[str, ...]:
    name = config.model.weights
    return () if name is None else (str(resolve_weights(name, run, "model.weights")),)


def _evaluated_files(config: Config, split: str | None, run: Path) -> tuple[str, ...]:
    weights, classes = config.evaluate.weights, config.evaluate.classes
    named = () if weights is None else (str(resolve_weights(weights, run)),)
    return named if classes is None else (*named, classes)


def _fused_files(config: Config, split: str | None, run: Path) -> tuple[str, ...]:
    """Return the seals of the scores that the config names: they hold the scores' checksums."""
    scores = [file for place in config.fuse.scores for file in find_scores(Path(place), evaluate_directory)]
    weights = [] if config.fuse.weights_from is None else [str(fusion_file(Path(config.fuse.weights_from)))]
    return (*(str(beside(file)) for file in scores), *weights)


def _compared_files(config: Config, split: str | None, run: Path) -> tuple[str, ...]:
    return tuple(str(evaluate_directory(Path(run))) for run in config.report.compare)


def _report_inputs(config: Config) -> tuple[str, ...]:
    prepared = ("prepare-train", "prepare-val", "build") if _trains(config) else ("prepare-val",)
    trained = ("train",) if config.freeze_bn.from_checkpoint is None else ()
    gates = ("activations",) if config.measures_gates else ()
    return (
        *prepared,
        *dict.fromkeys((*trained, *_trained(config)) if _trains(config) else ()),
        "evaluate",
        "fuse",
        *gates,
    )


STAGES: tuple[Stage, ...] = (
    Stage(
        name="prepare",
        summary="check every image and write the index",
        version=3,
        sections=("data",),
        files=_ground_truth,
        splits=("train", "val", "test"),
        narrow=_of_split,
        shape=Shape(minutes=720),
    ),
    Stage(
        name="build",
        summary="make the network, check it, write seeded initial weights",
        version=2,
        sections=("seed", "model"),
        inputs=lambda config: ("prepare-train",) if config.model.num_classes is None else (),
        files=_initial_weights,
        is_active=_trains,
        shape=Shape(minutes=30),
    ),
    Stage(
        name="train",
        summary="train to the epoch where the batch norms freeze",
        version=3,
        sections=_TRAINING,
        inputs=lambda config: ("prepare-train", "prepare-val", "build"),
        is_active=_trains,
        is_distributed=True,
        epochs=lambda config: (0, config.train_stage_epochs),
        shape=Shape("as training", minutes=1440),
    ),
    Stage(
        name="freeze_bn",
        summary="train the last epochs with frozen batch norms",
        version=3,
        sections=(*_TRAINING, "freeze_bn"),
        inputs=lambda config: (
            "prepare-train",
            "prepare-val",
            *(() if config.freeze_bn.from_checkpoint else ("train",)),
        ),
        files=lambda config, split, run: (
            (config.freeze_bn.from_checkpoint,) if config.freeze_bn.from_checkpoint else ()
        ),
        is_active=lambda config: _trains(config) and config.train.frozen_epochs > 0,
        is_distributed=True,
        epochs=lambda config: (config.train_stage_epochs, config.train.epochs),
        shape=Shape("as training", minutes=1440),
    ),
    Stage(
        name="evaluate",
        summary="score every image of a split under every crop plan",
        version=5,
        sections=("input", "model", "evaluate", "execution", "loader"),
        inputs=lambda config: (f"prepare-{config.evaluate.split}", *_trained(config)),
        files=_evaluated_files,
        is_distributed=True,
        beside=True,
        shape=Shape("as training", minutes=720),
    ),
    Stage(
        name="activations",
        summary="measure the gates of the squeeze-and-excitation blocks over the validation images",
        version=1,
        sections=("input", "model", "evaluate", "execution", "loader"),
        inputs=lambda config: ("prepare-val", *_trained(config)),
        files=_evaluated_files,
        is_active=lambda config: config.measures_gates,
        is_distributed=True,
        beside=True,
        shape=Shape("as training", minutes=120),
    ),
    Stage(
        name="fuse",
        summary="fuse the scores of crop plans and networks",
        version=3,
        sections=("seed", "evaluate", "fuse"),
        inputs=lambda config: (f"prepare-{config.evaluate.split}", "evaluate"),
        files=_fused_files,
        is_goal=True,
        beside=True,
    ),
    Stage(
        name="report",
        summary="write the report",
        version=3,
        sections=("name", *_TRAINING, "data", "freeze_bn", "evaluate", "fuse", "report"),
        inputs=_report_inputs,
        files=_compared_files,
        # Without labels there are no errors to report.
        is_active=lambda config: config.evaluate.split == "val",
        is_goal=True,
        beside=True,
    ),
)
