"""The sweep of the documentation, run offline as the agent of W&B runs it; only a server can choose its parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.sdk.lib.config_util import save_config_file_from_dict

from launch.run_directory import default_run
from pipeline.config.document import read_document
from pipeline.config.reader import load_config, read_run_config
from tests.conftest import REPOSITORY
from tests.tracking.wandb_file import read_run, read_summary

SWEEP = REPOSITORY / "docs" / "wandb_sweep.yaml"
PLAN = "[{name: center32, crops: [{resize_px: 32, crop_px: 32}]}]"
SHORT = {"train.epochs": 1, "train.frozen_epochs": 0, "schedule.warmup_epochs": 0, "evaluate.plans": PLAN}
"""What the demo needs no learning for."""


@pytest.fixture(scope="module")
def sweep() -> dict[str, Any]:
    return dict(read_document(SWEEP, "sweep").root.plain())


def test_every_value_of_the_sweep_is_one_of_the_recipe(sweep):
    for name, parameter in sweep["parameters"].items():
        for value in parameter.get("values") or [parameter["min"], parameter["max"]]:
            load_config(REPOSITORY / "configs" / "demo.yaml", [f"{name}={value}"])


def test_each_run_of_an_agent_has_a_directory_of_its_own(monkeypatch):
    config = load_config(REPOSITORY / "configs" / "demo.yaml")
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert default_run(config) == Path("runs/demo"), "the id of a notebook's or shell's own run"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert default_run(config) == Path("runs/demo-abcd1234")


def test_all_stages_are_the_agent_s_run_and_its_parameters_are_in_the_config(sweep, tmp_path):
    arguments = {"optim.lr": 0.0625, "train.label_smoothing": 0.0, **SHORT}
    order = {"run_id": "abcd1234", "args": {name: {"value": value} for name, value in arguments.items()}}
    parameters = tmp_path / "wandb" / "sweep-s1" / "config-abcd1234.yaml"
    save_config_file_from_dict(str(parameters), order["args"])
    given = create_sweep_command_args(order)
    words: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        words += given[word[2:-1]] if word.startswith("${") else [word]
    assert words[:3] == ["senet154", "run", "configs/demo.yaml"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": sweep["project"],
        "WANDB_RUN_ID": "abcd1234",
        "WANDB_SWEEP_ID": "s1",
        "WANDB_SWEEP_PARAM_PATH": str(parameters),
    }
    done = subprocess.run(
        [sys.executable, "-m", "launch", *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    run = tmp_path / "runs" / "demo-abcd1234"
    config = read_run_config(run)
    assert (config.optim.lr, config.train.label_smoothing, config.train.epochs) == (0.0625, 0.0, 1)
    pieces = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert len(pieces) == 4, "train, evaluate, fuse and report"
    described = [read_run(piece) for piece in pieces]
    assert {(piece.run_id, piece.sweep_id, piece.project) for piece in described} == {("abcd1234", "s1", "senet154")}
    assert json.loads((run / "wandb.json").read_text())["id"] == "abcd1234"
    assert sweep["metric"]["name"] in read_summary(pieces[-1])
