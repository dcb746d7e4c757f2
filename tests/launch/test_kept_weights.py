"""Weights that a recipe names by another run: chosen when the run is set up, and its own from then on."""

from __future__ import annotations

import shutil
from pathlib import Path

from launch.run_directory import set_up
from pipeline.config.reader import read_run_config, write_run_config
from pipeline.ground.errors import EXIT_DONE
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from pipeline.store.file import sha256_of
from stages import STAGES
from tests.evaluation.small_run import make_weights
from tests.recipes import small_recipe
from tests.sealed import seal_part
from tests.stages.test_evaluate_alone import WNIDS, make_val, recipe


def finished_run(folder: Path) -> Path:
    """A run whose training is done, with weights of 1000 classes."""
    run, config = folder / "other", small_recipe(folder, train={"epochs": 6, "frozen_epochs": 0})
    write_run_config(run, config)
    (part,) = place_stages(config, run, STAGES)["train"].parts
    part.directory.mkdir()
    make_weights(part.directory / "weights.safetensors", num_classes=1000)
    seal_part(part, ["weights.safetensors"])
    return run


def test_the_other_run_may_go_once_its_weights_are_chosen(tmp_path):
    other, run = finished_run(tmp_path), tmp_path / "run"
    make_val(tmp_path, {WNIDS[label]: ["a.JPEG"] for label in (5, 6)})
    config = recipe(tmp_path, other)
    placed = place_stages(config, run, STAGES)
    set_up(run, config, placed.values(), accept_changes=False)
    (kept,) = (run / "inputs").glob("*.safetensors")
    assert kept.name == f"weights-{sha256_of(kept)[:10]}.safetensors"
    shutil.rmtree(other)
    again = read_run_config(run)
    assert place_stages(again, run, STAGES)["evaluate"].key == placed["evaluate"].key
    for name in ("prepare", "evaluate"):
        assert run_stage(name, again, run, STAGES) == EXIT_DONE
