"""The runs whose results a table of the paper is filled with. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.crop_plan import CropPlan
from pipeline.config.identity import identity, plain_identity
from pipeline.config.network import ModelConfig
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.config.schema import Config
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.networks.registry import NETWORKS, SEBlock
from pipeline.paper.tables import Row, Table
from pipeline.running.attempts import read_attempts, seconds_of
from pipeline.running.named_files import digest_of
from pipeline.running.stage import PlacedStage, Stage, place_stages
from pipeline.store.seal import BrokenSeal, Seal, read_seal

_TRAINING = ("data", "input", "model", "augmentation", "optim", "schedule", "train", "freeze_bn", "execution")
_DIGITS = 10
"""Of a SHA-256."""


@dataclasses.dataclass(frozen=True)
class MeasuredRun:
    """A run that is evaluated."""

    directory: Path
    config: Config
    errors: Mapping[str, Mapping[str, Any]]
    """By crop plan."""
    cost: tuple[int, float] | None
    """Parameters and GMAC of the network that it built."""
    seconds: float
    """Time that its training took, of all attempts whose end is recorded."""
    training: str
    """What trained its weights: the key of that stage, or of weights of others their SHA-256."""
    content: Mapping[str, str]
    """Digests of its images and of the weights that its training began with."""

    @property
    def is_trained(self) -> bool:
        """Whether the run has trained what it evaluated."""
        return self.config.evaluate.weights is None

    def setting(self, plan: CropPlan) -> dict[str, Any]:
        """Return all that its errors under a crop plan depend on beside seed and network."""
        found = identity(self.config, _TRAINING if self.is_trained else ("data",))
        for name in ("model.name", "model.se"):
            found.pop(name, None)
        measured = plain_identity(plan)
        measured.pop("name", None)
        return found | dict(self.content) | {"crop plan": measured}

    @property
    def title(self) -> str:
        """The setting in a few words."""
        dataset, epochs = self.config.data.dataset, self.config.train.epochs
        return f"{dataset}, {counted(epochs, 'epoch')}" if self.is_trained else dataset

    @property
    def variety(self) -> str:
        """What tells its weights from those of other runs of a row and setting that are no other seed of the same."""
        if not self.is_trained:
            return f"weights {self.training[:_DIGITS]}"
        block = self.config.model.block
        return "" if block is None else "with biases" if block.bias else "without biases"

    @property
    def base(self) -> str:
        """Its network without the block."""
        return self.config.model.name.removeprefix("se_")

    def plan_of(self, table: Table, row: Row) -> CropPlan | None:
        """Return the crop plan whose errors belong into a row of a table; None if it is no run of that row."""
        config, model = self.config, self.config.model
        if row.model is None:
            return None
        if table.compares_blocks:
            if _variant(model) != _variant(ModelConfig.of_row(row)):
                return None
        elif (model.title, config.data.dataset) != (row.model, table.dataset):
            return None
        if row.crop is None or config.data.dataset != "imagenet":
            return config.evaluate.plans[0]
        trained = config.train.image_size_px if self.is_trained else NETWORKS[model.name].image_size_px
        if trained != (row.trained_px or row.crop[1]):
            return None
        resize_px, crop_px = row.crop
        for plan in config.evaluate.plans:
            if (crop := plan.center_crop) and crop[1] == crop_px and resize_px in (None, crop[0]):
                return plan
        return None


def read_runs(paths: Iterable[Path], stages: Sequence[Stage]) -> tuple[list[MeasuredRun], dict[Path, str]]:
    """Read the runs in run directories and directories of runs, each once. Returns those with errors, and the others'
    directories with the reason.

    Raises UserError if a path is neither.
    """
    measured: list[MeasuredRun] = []
    others: dict[Path, str] = {}
    seen: set[Path] = set()
    for path in paths:
        runs = (
            [path] if (path / RUN_CONFIG).is_file() else [file.parent for file in sorted(path.glob(f"*/{RUN_CONFIG}"))]
        )
        if not runs:
            raise UserError(f"{path}: neither a run directory nor a directory of runs (no {RUN_CONFIG} in it)")
        for run in runs:
            if run.resolve() in seen:
                continue
            seen.add(run.resolve())
            found = _read_run(run, stages)
            if isinstance(found, str):
                others[run] = found
            else:
                measured.append(found)
    return measured, others


def _read_run(run: Path, stages: Sequence[Stage]) -> MeasuredRun | str:
    """Return a run, or why there are no errors of it."""
    config = read_run_config(run)
    placed = place_stages(config, run, stages)
    seals: dict[str, Seal] = {}
    for stage in placed.values():
        try:
            found = {part.name: seal for part in stage.parts if (seal := read_seal(part.directory, "stage"))}
        except BrokenSeal as error:
            raise UserError(f"{error}\ndelete its directory and run that stage of {run} again") from error
        seals |= found
    if config.evaluate.split == "test":
        return "evaluates test images, whose errors are not known"
    if "evaluate" not in seals:
        return "not evaluated yet"
    cost = None
    if "build" in seals:
        built = seals["build"].about["metrics"]
        cost = (int(built["parameters"]), float(built["gmacs"]))
    trained = [stage for stage in placed.values() if stage.stage.is_training]
    return MeasuredRun(
        directory=run,
        config=config,
        errors=seals["evaluate"].about["metrics"],
        cost=cost,
        seconds=sum(seconds_of(read_attempts(stage.directory)) for stage in trained),
        training=trained[-1].key if trained else _digests(placed["evaluate"], config, run)[0],
        content=_content(placed, config, run, seals),
    )


def _content(placed: Mapping[str, PlacedStage], config: Config, run: Path, seals: Mapping[str, Seal]) -> dict[str, str]:
    images = {split: digest for seal in seals.values() for split, digest in seal.about["images"].items()}
    initial = [
        each for name in ("build", "freeze_bn") if name in placed for each in _digests(placed[name], config, run)
    ]
    found = {f"{split} images": digest[:_DIGITS] for split, digest in sorted(images.items())}
    return found | ({"initial weights": ", ".join(each[:_DIGITS] for each in initial)} if initial else {})


def _digests(stage: PlacedStage, config: Config, run: Path) -> list[str]:
    """Return those of the files that the recipe names for a stage."""
    return [digest_of(Path(path), run) for path in stage.stage.files(config, None, run)]


def _variant(model: ModelConfig) -> SEBlock | None:
    """Return the block but for its biases, which the paper's ablations leave out, and others need not."""
    return None if model.block is None else dataclasses.replace(model.block, bias=True)
