"""Weights that a recipe names: a file, a run, a stage or checkpoint directory, or the best checkpoint of a run.

A name that can come to mean something else is resolved once, at the run's first launch, and that file is linked into
the run's `inputs/`: the other run may then go on, and remove its own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.reader import RUN_CONFIG
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line
from pipeline.running.named_files import digest_of
from pipeline.running.provenance import PROVENANCE
from pipeline.store.file import link_or_copy, write_bytes, write_json
from pipeline.store.seal import SEAL, BrokenSeal, Seal, is_sealed, read_seal
from pipeline.training.checkpoint_seal import CHECKPOINTS, MODEL, STATE, newest_sealed, numbered, step_name
from pipeline.training.checkpoint_seal import KIND as CHECKPOINT

INPUTS = "inputs"
"""Folder of a run directory."""
BEST = "best"
"""The last word of `RUN/best`."""
WEIGHTS = "weights.safetensors"
"""What a stage leaves that has weights."""
_CHOICES = "names.json"
_TRAINING = ("freeze_bn", "train")
"""The stages whose weights are a run's result, the later one first."""


def resolve_weights(name: str, run: Path, key: str = "evaluate.weights") -> Path:
    """Return the weight file that the recipe of `run` names in `key`: the file chosen before if the name can move.

    A file is returned as it is, whatever its kind. Raises UserError if the name stands for no weights.
    """
    chosen = _choices(run).get(_place(name))
    if chosen is not None and (run / INPUTS / chosen["file"]).is_file():
        return run / INPUTS / str(chosen["file"])
    return find_weights(name, key)


def find_weights(name: str, key: str) -> Path:
    """Return the weight file that a name stands for now. Raises UserError, beginning with `key`, if there is none."""
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_directory(path, key)
    if path.name == BEST and (path.parent / RUN_CONFIG).is_file():
        return _best(path.parent, key)
    raise UserError(
        f"{key}: nothing there (given {name}); it must be a weight file (.safetensors), a run, the directory of a "
        "stage or of a checkpoint, or RUN/best"
    )


def keep_weights(name: str, run: Path, key: str = "evaluate.weights") -> Path:
    """Resolve weights for the launch that sets a run up: links files that can move into the run's `inputs/`."""
    file = resolve_weights(name, run, key)
    if Path(name).is_file() or file.parent == run / INPUTS:
        return file
    own = f"{file.stem}-{digest_of(file, run)[:10]}{file.suffix}"
    (run / INPUTS).mkdir(parents=True, exist_ok=True)
    try:
        link_or_copy(file, run / INPUTS / own)
    except FileNotFoundError:
        raise UserError(f"{key}: {file} was removed meanwhile; run the same command again") from None
    write_json(run / INPUTS / _CHOICES, _choices(run) | {_place(name): {"file": own, "from": str(file.absolute())}})
    return run / INPUTS / own


@contextlib.contextmanager
def new_choices(run: Path, *, wanted: bool) -> Iterator[None]:
    """Let every name that can move be resolved anew, if that is wanted; an error puts the choices back. Files stay."""
    path = run / INPUTS / _CHOICES
    before = path.read_bytes() if wanted and path.exists() else None
    if before is not None:
        path.unlink()
    try:
        yield
    except BaseException:
        if before is not None:
            write_bytes(path, before)
        raise


def _in_directory(path: Path, key: str) -> Path:
    if (path / RUN_CONFIG).is_file():
        return _of_run(path, key)
    if (seal := _sealed(path, CHECKPOINT, key)) is not None:
        return _listed(path, MODEL, seal, key)
    if (seal := _sealed(path, "stage", key)) is not None:
        return _listed(path, WEIGHTS, seal, key)
    newest = newest_sealed(path) or newest_sealed(path / CHECKPOINTS)
    hint = f"its newest checkpoint is {newest[0]}; give that" if newest else "there is no seal and no checkpoint in it"
    raise UserError(f"{key}: {path} is neither a run, a finished stage nor a checkpoint ({hint})")


def _of_run(run: Path, key: str) -> Path:
    for stage in _training_stages(run):
        if (seal := _sealed(stage, "stage", key)) is not None:
            return _listed(stage, WEIGHTS, seal, key)
        saved = newest_sealed(stage / CHECKPOINTS)
        newest = f", or give its newest checkpoint, {saved[0]}" if saved else ""
        raise UserError(
            f"{key}: the training of {run} is not done ({stage.name} has no seal); finish it: "
            f"{command_line('run', run / RUN_CONFIG, '--run', run)}{newest}"
        )
    raise UserError(f"{key}: the run {run} trains no weights; give a weight file or another run")


def _best(run: Path, key: str) -> Path:
    """Return the saved weights with the lowest validation error: of those of equal error the later stage's."""
    found: list[tuple[float, Path]] = []
    for stage in _training_stages(run):
        newest = newest_sealed(stage / CHECKPOINTS)
        best = None if newest is None else json.loads((newest[0] / STATE).read_bytes())["validations"]["best_saved"]
        if best is not None:
            found.append((best["top1_error_percent"], stage / CHECKPOINTS / step_name(best["global_step"])))
    for _, checkpoint in sorted(found, key=lambda each: each[0]):
        if checkpoint in numbered(checkpoint.parent) and (seal := _sealed(checkpoint, CHECKPOINT, key)) is not None:
            return _listed(checkpoint, MODEL, seal, key)
    raise UserError(
        f"{key}: {run} has no validated checkpoint yet, or checkpoint.keep_best is false; give the run itself or "
        "one of its checkpoints"
    )


def _training_stages(run: Path) -> list[Path]:
    """Return the directories of a run's training stages as last set up, the later first; else all there are."""
    try:
        stages = json.loads((run / PROVENANCE).read_text())["stages"]
        parts = {part: key for name in _TRAINING if name in stages for part, key in stages[name]["parts"].items()}
        return [run / f"{part}-{key}" for part, key in parts.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [stage for name in _TRAINING for stage in sorted(run.glob(f"{name}-*")) if is_sealed(stage)]


def _sealed(path: Path, kind: str, key: str) -> Seal | None:
    """Return the seal of a directory; None if it has none, or one of another kind."""
    try:
        seal = read_seal(path, kind)
    except BrokenSeal as error:
        if f"not of a {kind}" in str(error):
            return None
        raise UserError(f"{key}: {error}") from error
    return seal


def _listed(path: Path, file: str, seal: Seal, key: str) -> Path:
    if file not in seal.files:
        raise UserError(f"{key}: {path} holds no weights (its {SEAL} lists no {file})")
    return path / file


def _choices(run: Path) -> dict[str, dict[str, Any]]:
    try:
        choices = json.loads((run / INPUTS / _CHOICES).read_text())
    except (OSError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _place(name: str) -> str:
    return os.path.abspath(name)
