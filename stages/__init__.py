"""The pipeline's stages: their declarations. Each one's code is the module of its name, imported when it runs."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import Config
from pipeline.evaluation.members import evaluate_directory, find_scores, fusion_file
from pipeline.running.stage import StageSpec


def _freezes(config: Config) -> bool:
    return config.freeze_bn.last_epochs > 0


def _trained(config: Config) -> tuple[str, ...]:
    """The stage whose weights are the run's result; none where a weight file is evaluated instead."""
    if config.evaluate.weights is not None:
        return ()
    return ("freeze_bn",) if _freezes(config) else ("train",)


def _checkpoint_file(config: Config) -> tuple[str, ...]:
    origin = config.freeze_bn.from_checkpoint
    return () if origin is None else (str(Path(origin) / "manifest.json"),)


def _compared_files(config: Config) -> tuple[str, ...]:
    if config.report.compare is None:
        return ()
    return (str(evaluate_directory(Path(config.report.compare), STAGES) / "results.json"),)


def _fused_files(config: Config) -> tuple[str, ...]:
    """What says which scores and weights the config names: the descriptions of the former have their checksums."""
    scores = [file for place in config.fuse.scores for file in find_scores(Path(place), STAGES)]
    weights = [] if not isinstance(config.fuse.member_weights, str) else [fusion_file(Path(config.fuse.member_weights))]
    return (*(str(file.with_suffix(".json")) for file in scores), *map(str, weights))


_TRAINING = (
    "seed",
    "model.name",
    "model.num_classes",
    "model.dropout",
    "model.bn_momentum",
    "data.mean",
    "data.std",
    "augmentation",
    "optim",
    "schedule",
    "train",
    "freeze_bn.last_epochs",
    "execution",
    "loader.backend",
)

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="prepare",
        summary="check every image and write the index",
        version=2,
        inputs=lambda config: (),
        config_keys=("data", "model.num_classes"),
    ),
    StageSpec(
        name="build",
        summary="make the network, check it, write seeded initial weights",
        version=1,
        inputs=lambda config: (),
        config_keys=("seed", "model", "train.image_size_px"),
    ),
    StageSpec(
        name="train",
        summary="train to the epoch where the batch norms freeze",
        version=2,
        inputs=lambda config: ("prepare", "build"),
        config_keys=_TRAINING,
        distributed=True,
    ),
    StageSpec(
        name="freeze_bn",
        summary="train the last epochs with frozen batch norms",
        version=2,
        inputs=lambda config: ("prepare",) if config.freeze_bn.from_checkpoint else ("prepare", "train"),
        config_keys=(*_TRAINING, "freeze_bn.scope"),
        files=_checkpoint_file,
        distributed=True,
        is_active=_freezes,
    ),
    StageSpec(
        name="evaluate",
        summary="score every image of a split under every crop plan",
        version=4,
        inputs=lambda config: ("prepare", *_trained(config)),
        config_keys=(
            "model.name",
            "model.num_classes",
            "data.mean",
            "data.std",
            "evaluate",
            "execution",
            "loader.backend",
        ),
        files=lambda config: () if config.evaluate.weights is None else (config.evaluate.weights,),
        distributed=True,
    ),
    StageSpec(
        name="fuse",
        summary="fuse the scores of crop plans and networks",
        version=1,
        inputs=lambda config: ("prepare", "evaluate"),
        config_keys=("seed", "fuse"),
        files=_fused_files,
    ),
    StageSpec(
        name="report",
        summary="write the report",
        version=1,
        inputs=lambda config: (
            *(name for name in ("prepare", "build", "train", "freeze_bn") if _is_read(name, config)),
            "evaluate",
            "fuse",
        ),
        config_keys=("name", "report"),
        files=_compared_files,
        # Without labels there are no errors to report.
        is_active=lambda config: config.evaluate.split == "val",
    ),
)


def _is_read(name: str, config: Config) -> bool:
    """Whether the report has something to say about the stage `name`."""
    if config.evaluate.weights is not None:
        return name == "prepare"
    if name == "train":
        return config.freeze_bn.from_checkpoint is None
    return name != "freeze_bn" or _freezes(config)
