from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.run_directory import set_up
from pipeline.config.reader import read_run_config, write_run_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import place_stages
from pipeline.store.file import sha256_of
from stages import STAGES
from tests.launch.finished import save_checkpoint
from tests.recipes import small_recipe

CONFIG_OF_0_1 = """\
name: small
seed: 11
data:
  dataset: folder
  root: /images
  mean: [123.675, 116.28, 103.53]
  std: [58.395, 57.12, 57.375]
model:
  name: senet_nano
  num_classes: 4
train:
  epochs: 6
freeze_bn:
  last_epochs: 2
  scope: statistics_and_affine
"""
"""What matters of a config.yaml that 0.1 wrote."""
OLD_STAGE = {
    "manifest.json": '{"stage": "prepare", "key": "2bbd2aaf30", "config": {}, "inputs": {}, "outputs": {}}',
    "lives.jsonl": '{"kind": "start", "time": 1.0, "processes": 1}\n',
    "dataset.json": '{"name": "folder", "roots": {}, "classes": []}',
    "outcome.json": '{"exit_code": 75, "message": "stopped", "rank": 0}',
}


def start(run: Path, config: Config, accept_changes: bool = False) -> None:
    set_up(run, config, place_stages(config, run, STAGES).values(), accept_changes)


def test_config_and_provenance_are_written_before_anything_runs(tmp_path):
    config = small_recipe(tmp_path)
    run = tmp_path / "runs" / "small"
    start(run, config)
    assert read_run_config(run) == config
    provenance = json.loads((run / "provenance.json").read_text())
    assert {"git", "packages", "python", "command"} <= set(provenance)
    assert provenance["stages"].keys() == place_stages(config, run, STAGES).keys()
    assert sorted(file.name for file in run.iterdir()) == ["config.yaml", "provenance.json"]


def test_files_that_the_recipe_names_are_hashed_and_put_on_record(tmp_path):
    weights, checkpoint, run = tmp_path / "weights.safetensors", save_checkpoint(tmp_path, 9), tmp_path / "run"
    weights.write_bytes(b"weights")
    start(run, small_recipe(tmp_path, evaluate={"weights": str(weights)}))
    start(run, small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(checkpoint)}))
    record = json.loads((run / "inputs.json").read_text())
    assert {path: entry[2] for path, entry in record.items()} == {
        str(file): sha256_of(file) for file in (weights, checkpoint / "seal.json")
    }


@pytest.mark.parametrize("command", ["run", "plan", "status", "logs", "cancel"])
@pytest.mark.parametrize("left", ["all", "the config", "a stage"])
def test_a_run_of_version_0_1_is_refused_with_a_sentence_that_says_so(tmp_path, capsys, command, left):
    run = tmp_path / "run"
    run.mkdir()
    if left != "a stage":
        (run / "config.yaml").write_text(CONFIG_OF_0_1)
    if left != "the config":
        (run / "prepare-2bbd2aaf30").mkdir()
        for name, content in OLD_STAGE.items():
            (run / "prepare-2bbd2aaf30" / name).write_text(content)
    write_run_config(tmp_path, small_recipe(tmp_path))
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    if command in ("run", "plan"):
        arguments = [str(tmp_path / "config.yaml"), "--run", str(run)]
    else:
        arguments = [str(run), *(["train"] if command == "logs" else [])]
    assert main([command, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"{run}: made by version 0.1, which this version cannot go on with; begin anew with another --run DIR, or "
        "finish it with the version that began it\n"
    )


@pytest.mark.parametrize("place", ["/proc/run", "/sys/run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    with pytest.raises(UserError, match=f"{place}: cannot be made or written"):
        start(Path(place), small_recipe(tmp_path))


def test_a_disk_without_room_for_the_checkpoints_is_refused(tmp_path):
    config = small_recipe(tmp_path, checkpoint={"keep_last": 10**9})
    with pytest.raises(UserError, match=r"the checkpoints will need [\d,.]+ GB .* free there; .*checkpoint\.keep_last"):
        start(tmp_path / "run", config)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_a_run_already_holds_needs_no_room_again(tmp_path, monkeypatch):
    config = small_recipe(tmp_path, train={"frozen_epochs": 0})
    run = tmp_path / "run"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10_000_000))
    with pytest.raises(UserError, match=r"will need 17\.9 MB \(each 4\.5 MB, 3 kept by each training stage"):
        start(run, config)
    train = place_stages(config, run, STAGES)["train"].directory
    train.mkdir(parents=True)
    with (train / "checkpoint").open("wb") as file:
        file.truncate(9_000_000)
    start(run, config)
