"""`python -m launch predict`: the likeliest classes of single images, without a run."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch.console import say, show, table
from launch.inputs import require_safetensors
from pipeline.config.crop_plan import CropPlan, plan_of
from pipeline.config.data import InputConfig
from pipeline.config.evaluation import EvaluateConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.operations import LoaderConfig
from pipeline.config.reader import RUN_CONFIG, load_config, read_plan, read_run_config
from pipeline.ground.errors import EXIT_FAILED, UserError
from pipeline.ground.interpreter import module_environment
from pipeline.running.named_weights import find_weights

_RUN_DEPTH = 4
"""RUN/train-KEY/checkpoints/step-00000180/model.safetensors: so far above the weights is a run."""


@dataclasses.dataclass(frozen=True)
class PredictRequest:
    """The command line of `predict`."""

    weights: str
    images: tuple[Path, ...]
    plan: str
    recipe: Path | None
    """Precision, input and batch are those of its evaluation."""
    top: int
    json: bool


def predict(request: PredictRequest) -> int:
    """Print a table for each image, or a JSON line. Returns the exit code."""
    weights = find_weights(request.weights, "WEIGHTS")
    require_safetensors(weights, "WEIGHTS")
    asked = {
        **_settings(request, weights),
        "plan": _plan(request.plan).model_dump(mode="json"),
        "weights": str(weights),
        "images": [str(path) for path in request.images],
        "top": request.top,
        "classes": _classes(weights),
    }
    command = [sys.executable, "-m", "pipeline.evaluation"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=module_environment(),
        start_new_session=True,  # Ctrl-C comes here alone
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(asked))
            child.stdin.close()
            for line in child.stdout:
                if request.json:
                    say(line.rstrip("\n"))
                else:
                    _print(json.loads(line))
        except BaseException:
            child.kill()
            raise
    return child.returncode if child.returncode >= 0 else EXIT_FAILED


def _print(found: dict[str, Any]) -> None:
    rows = table(found["image"], "class", "", numbers=[0])
    for one in found["predictions"]:
        percent = 0.0 if one["probability"] is None else 100 * one["probability"]
        rows.add_row(f"{percent:.2f} %", one["words"], one["class"] if one["class"] != one["words"] else "")
    show(rows)
    say("")


def _settings(request: PredictRequest, weights: Path) -> dict[str, Any]:
    """Return the settings of the recipe, or of the run that the weights belong to, or else the defaults."""
    run = _run_of(weights)
    if request.recipe is not None:
        config = load_config(request.recipe)
    elif run is not None:
        config = read_run_config(run)
    else:
        return _plain(ExecutionConfig(), InputConfig(), LoaderConfig(), EvaluateConfig().batch)
    return _plain(config.execution, config.input, config.loader, config.evaluate.batch)


def _run_of(weights: Path) -> Path | None:
    return next((place for place in weights.absolute().parents[:_RUN_DEPTH] if (place / RUN_CONFIG).is_file()), None)


def _classes(weights: Path) -> list[dict[str, Any]]:
    """Return the classes of the run that the weights belong to, if they are known: a checkpoint does not list them."""
    run = _run_of(weights)
    found = [] if run is None else list(run.glob("prepare-train-*/classes.json"))
    return json.loads(found[0].read_text()) if len(found) == 1 else []


def _plain(execution: ExecutionConfig, pixels: InputConfig, loader: LoaderConfig, batch: int) -> dict[str, Any]:
    return {
        "execution": execution.model_dump(mode="json"),
        "input": pixels.model_dump(mode="json"),
        "loader": loader.model_dump(mode="json"),
        "batch": batch,
    }


def _plan(text: str) -> CropPlan:
    if Path(text).suffix in (".yaml", ".yml"):
        return read_plan(Path(text))
    try:
        return plan_of(text)
    except ValueError as error:
        raise UserError(f"--plan: neither a YAML file nor a name: {error}") from error
