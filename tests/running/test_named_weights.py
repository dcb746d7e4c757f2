from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.reader import write_run_config
from pipeline.ground.errors import UserError
from pipeline.running.named_weights import keep_weights, new_choices, resolve_weights
from pipeline.running.stage import place_stages
from pipeline.store.seal import seal_directory
from pipeline.training.checkpoint_seal import FILES
from stages import STAGES
from tests.recipes import small_recipe
from tests.sealed import seal_part


def save_checkpoint(stage: Path, step: int, best: dict[str, Any] | None = None) -> Path:
    checkpoint = stage / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    for name in FILES:
        (checkpoint / name).write_text(f"{stage.name} {step}")
    (checkpoint / "state.json").write_text(json.dumps({"global_step": step, "validations": {"best_saved": best}}))
    seal_directory(checkpoint, "checkpoint", {"global_step": step}, FILES)
    return checkpoint


@pytest.fixture
def other(tmp_path: Path) -> dict[str, Path]:
    """Another run: train is done, freeze_bn too, each with two checkpoints; the best is train's."""
    run, config = tmp_path / "other", small_recipe(tmp_path)
    write_run_config(run, config)
    placed = place_stages(config, run, STAGES)
    stages = {"run": run}
    for name, best, last in (("train", {"global_step": 4, "top1_error_percent": 20.0}, 6), ("freeze_bn", None, 9)):
        (part,) = placed[name].parts
        save_checkpoint(part.directory, last - 2, best)
        save_checkpoint(part.directory, last, best)
        (part.directory / "weights.safetensors").write_text(f"weights of {name}")
        seal_part(part, ["weights.safetensors"])
        stages[name] = part.directory
    keys = {name: {"parts": {name: path.name.partition("-")[2]}} for name, path in stages.items() if name != "run"}
    (run / "provenance.json").write_text(json.dumps({"stages": keys}))
    return stages


def test_a_file_a_run_a_stage_a_checkpoint_and_the_best_are_found(tmp_path, other):
    run, file = tmp_path / "run", tmp_path / "some.safetensors"
    file.touch()
    best = other["train"] / "checkpoints" / "step-00000004"
    assert resolve_weights(str(file), run) == file
    assert resolve_weights(str(other["run"]), run) == other["freeze_bn"] / "weights.safetensors"
    assert resolve_weights(str(other["train"]), run) == other["train"] / "weights.safetensors"
    assert resolve_weights(str(best), run) == best / "model.safetensors"
    assert resolve_weights(f"{other['run']}/best", run) == best / "model.safetensors"


def test_a_name_that_can_move_is_kept_and_a_new_choice_is_made_on_request_alone(tmp_path, other):
    run, name = tmp_path / "run", f"{other['run']}/best"
    kept = keep_weights(name, run)
    assert kept.parent == run / "inputs"
    assert kept.read_text() == f"{other['train'].name} 4"
    save_checkpoint(other["freeze_bn"], 12, {"global_step": 12, "top1_error_percent": 10.0})
    shutil.rmtree(other["train"] / "checkpoints")
    assert resolve_weights(name, run) == keep_weights(name, run) == kept
    assert kept.read_text() == f"{other['train'].name} 4"
    with pytest.raises(UserError), new_choices(run, wanted=True):
        assert resolve_weights(name, run) != kept
        raise UserError("refused for another reason")
    assert resolve_weights(name, run) == kept, "a refusal changes nothing"
    with new_choices(run, wanted=True):
        pass
    assert keep_weights(name, run).read_text() == f"{other['freeze_bn'].name} 12"


def test_a_file_is_not_copied(tmp_path):
    file = tmp_path / "some.safetensors"
    file.touch()
    assert keep_weights(str(file), tmp_path / "run") == file
    assert not (tmp_path / "run").exists()


def test_what_has_no_weights_is_named_with_the_way_on(tmp_path, other):
    def problem(name: object) -> str:
        with pytest.raises(UserError) as raised:
            resolve_weights(str(name), tmp_path / "run")
        return str(raised.value)

    assert "nothing there (given nowhere); it must be a weight file (.safetensors), a run" in problem("nowhere")
    assert f"its newest checkpoint is {other['train']}/checkpoints/step-00000006; give that" in problem(
        other["train"] / "checkpoints"
    )
    seal = other["freeze_bn"] / "seal.json"
    seal.unlink()
    assert "training of" in problem(other["run"])
    assert f"or give its newest checkpoint, {other['freeze_bn']}/checkpoints/step-00000009" in problem(other["run"])
    (other["run"] / "provenance.json").write_text('{"stages": {}}')
    assert "trains no weights" in problem(other["run"])
    assert "has no validated checkpoint yet" in problem(f"{other['run']}/best")
