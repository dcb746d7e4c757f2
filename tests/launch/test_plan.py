from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.plan import describe_schedule, print_plan
from launch.run_directory import set_up
from launch.slurm import scheduler
from pipeline.config.reader import load_config, write_run_config
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.running.attempts import note_start
from pipeline.running.stage import place_stages
from pipeline.tracking.events import EventLog
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.launch.finished import finish, save_checkpoint
from tests.recipes import small_recipe
from tests.sealed import seal_part

CONFIGS = REPOSITORY / "configs"
BUILD_APEX = (
    "build it from a checkout of https://github.com/NVIDIA/apex with "
    f"bash {REPOSITORY}/launch/install_apex.sh PATH_TO_APEX_SOURCE"
)


def plan_rows(capsys: pytest.CaptureFixture[str], recipe: Path, overrides: list[str], run: Path) -> dict[str, str]:
    """The printed plan, each line by its first word."""
    assert print_plan(recipe, overrides, run) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line.strip())


def test_plan_of_the_winning_recipe_has_its_numbers(capsys, tmp_path):
    run = tmp_path / ("long-" * 40)
    rows = plan_rows(
        capsys, CONFIGS / "senet154_ilsvrc2017.yaml", ["processes=64", "expected_images_per_second=300"], run
    )
    assert rows["batch"] == (
        "global batch 2048 = 64 processes x 32 images x 1 accumulation step; lr 1.0 is for the global batch"
    )
    assert rows["images"] == "1,281,167 training images (as published; prepare is to check it)"
    assert rows["steps"] == (
        "625.57 an epoch, 62,557 in 100 epochs; train takes steps 1 to 59,430, the end of epoch 95; "
        "freeze_bn takes steps 59,431 to 62,557, the end of epoch 100"
    )
    # 62,557 steps x 2048 images / (64 x 300 images/s) = 6,672.7 s
    assert rows["time"] == (
        "about 1 h 51 min of training, at 64 x 300 images/s (resources.expected_images_per_second); "
        "validation and checkpoints come on top"
    )
    assert rows["lr"] == (
        "linear up to 1.0 over the first 5 epochs, then 1.0, 0.1 from epoch 30, 0.01 from epoch 60, "
        "0.001 from epoch 90; 100 epochs in all"
    )
    # 12 bytes x 115,088,984 parameters; 4 x (2 x 115,088,984 + 247,552) bytes
    assert rows["network"] == "senet154: 115,088,984 parameters, 20.69 GMAC an image"
    assert "1.38 GB for weights, gradients and momentum" in rows["memory"]
    assert "activations of 32 images (bfloat16)" in rows["memory"]
    assert rows["checkpoint"] == (
        "921.7 MB (weights, momentum, running statistics); the last 2 and the best are kept: 2.77 GB a training stage"
    )
    assert rows["prepare"].startswith("to run")
    assert rows["prepare"].endswith("nothing was done yet")
    assert rows[str(CONFIGS / "senet154_ilsvrc2017.yaml")] == f"in {run}", "a long path is cut off"
    assert rows["train"].startswith("waiting")
    assert rows["train"].endswith("for prepare, build")


def test_a_batch_that_falls_into_single_images_is_warned_of(capsys, tmp_path):
    assert print_plan(CONFIGS / "demo.yaml", ["global_batch=127"], tmp_path) == 0
    assert "warning: the batch norms see 1 image at a time" in capsys.readouterr().out
    assert print_plan(CONFIGS / "demo.yaml", [], tmp_path) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("processes", "expansion"),
    [(1, "1 process x 32 images x 64 accumulation steps"), (8, "8 processes x 32 images x 8 accumulation steps")],
)
def test_fewer_gpus_keep_the_global_batch_by_accumulation(capsys, tmp_path, processes, expansion):
    recipe = CONFIGS / f"senet154_{processes}gpu.yaml"
    rows = plan_rows(capsys, recipe, [], tmp_path)
    assert rows["batch"] == f"global batch 2048 = {expansion}; lr 1.0 is for the global batch"


def test_plan_of_the_demo_at_two_processes(capsys, tmp_path):
    overrides = ["processes=2", "epochs=10", "train.frozen_epochs=2", "global_batch=64", "optim.lr=0.05"]
    overrides += ["warmup_epochs=1", "schedule.kind=cosine", "expected_images_per_second=400"]
    rows = plan_rows(capsys, CONFIGS / "demo.yaml", overrides, tmp_path)
    assert rows["batch"].startswith("global batch 64 = 2 processes x 32 images x 1 accumulation step; lr 0.05 is")
    assert rows["images"] == "1,438 training images (as published; prepare is to check it)"
    assert rows["steps"] == (
        "22.47 an epoch, 225 in 10 epochs; train takes steps 1 to 180, the end of epoch 8; "
        "freeze_bn takes steps 181 to 225, the end of epoch 10"
    )
    assert rows["lr"] == "linear up to 0.05 over the first epoch, then 0.05 falling as a cosine to 0 at epoch 10"
    assert rows["memory"].startswith("at least 21.5 MB a process: 6.7 MB for weights")
    assert rows["time"].startswith("about 18 s of training, at 2 x 400 images/s")


@pytest.mark.parametrize("words", [["plan"], ["run"], ["submit", "--profile", "slurm/profiles/cpu_test.yaml"]])
def test_a_network_that_build_would_refuse_is_refused_before_anything_is_done(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(scheduler, "look_up", lambda jobs: {})
    other = ["model.name=preresnet_nano", "--run", str(tmp_path)]
    assert main([words[0], "configs/demo.yaml", *other, *words[1:]]) == 2
    error = capsys.readouterr().err
    assert "model.expect: the network is not what the recipe claims\n" in error
    assert "parameters: 558,814 claimed, 77,850 found" in error
    assert list(tmp_path.iterdir()) == []


def test_claims_about_the_contest_s_network_are_compared_with_the_authors_layers(tmp_path):
    claims = ["expect={parameters: 115088984, gmacs: 20.69, layer_table: true}"]
    assert print_plan(CONFIGS / "senet154_1gpu.yaml", claims, tmp_path) == 0
    with pytest.raises(UserError, match=r"layer_table: the authors' claimed, \d+ differences found"):
        print_plan(CONFIGS / "senet154_1gpu.yaml", ["model.name=se_resnet50", *claims], tmp_path)


@pytest.mark.parametrize("sweep", [[], ["sweep.seed=[1,2]"]])
@pytest.mark.parametrize("words", [["plan"], ["submit", "--dry-run", "--profile", "slurm/profiles/cpu_test.yaml"]])
def test_gates_that_cannot_be_measured_are_told_before_the_run(capsys, tmp_path, monkeypatch, words, sweep):
    monkeypatch.chdir(REPOSITORY)
    gates = ["report.activations=true", "model.se=null", "model.expect=null", "--run", str(tmp_path / "run")]
    assert main([words[0], "configs/demo.yaml", *gates, *sweep, *words[1:]]) == 0
    assert capsys.readouterr().out.count("warning: report.activations: ") == 1


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(tmp_path):
    with pytest.raises(UserError, match=r"64 images cannot be shared equally by 3 processes .* use 2 or 4 processes"):
        print_plan(CONFIGS / "demo.yaml", ["processes=3", "global_batch=64"], tmp_path)


def test_what_is_not_known_is_said_to_be_unknown(capsys, tmp_path):
    write_run_config(tmp_path / "recipe", small_recipe(tmp_path))
    rows = plan_rows(capsys, tmp_path / "recipe" / "config.yaml", [], tmp_path / "run")
    assert rows["images"] == "unknown number of training images (unknown until prepare is done)"
    assert "steps" not in rows


def test_images_that_are_not_there_are_told_before_they_are_missed(capsys, tmp_path):
    overrides = [f"data.root={tmp_path}/nowhere"]
    assert print_plan(CONFIGS / "senet154_1gpu.yaml", overrides, tmp_path / "run") == 0
    assert capsys.readouterr().out.endswith(
        f"\nwarning: on this machine `run` would refuse: data.root: must be a folder (given {tmp_path}/nowhere)\n"
    )


def test_a_plan_without_training_has_no_figures_of_training(capsys, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    rows = plan_rows(capsys, CONFIGS / "demo.yaml", [f"evaluate.weights={weights}"], tmp_path / "run")
    assert "evaluate" in rows
    assert not {"images", "train", "batch", "steps", "time", "lr", "memory", "checkpoint"} & rows.keys()


def test_an_evaluation_s_forward_passes_are_told_with_a_measured_rate(capsys, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    for number in range(8):
        (tmp_path / "val" / f"n{number}").mkdir(parents=True)
        (tmp_path / "val" / f"n{number}" / "x.JPEG").touch()
    recipe, run = CONFIGS / "senet154_1gpu.yaml", tmp_path / "run"
    overrides = [f"evaluate.weights={weights}", "evaluate.plans=[center224,10crop]"]
    there = [*overrides, f"data.root={tmp_path}"]
    assert plan_rows(capsys, recipe, there, run)["evaluation"] == (
        f"8 images (files in {tmp_path}/val) x 11 crops of each image (center224 1, 10crop 10) = 88 forward passes"
    )
    assert plan_rows(capsys, recipe, [*overrides, "data.root=nowhere"], run)["evaluation"].startswith(
        "50,000 images (as published; prepare is to check it) x 11 crops of each image"
    )
    config = load_config(recipe, [overrides[0], "evaluate.plans=[center224]"])
    (part,) = place_stages(config, run, STAGES)["evaluate"].parts
    part.directory.mkdir(parents=True)
    measured = {"device": "cpu", "plans": [{"seconds": 2.0, "images": 8, "crops": 1}]}
    (part.directory / "results.json").write_text(json.dumps(measured))
    seal_part(part, ["results.json"])
    assert plan_rows(capsys, recipe, there, run)["about"] == (
        f"22 s, at 4.00 forward passes/s (measured in {part.directory.name}, on cpu)"
    )


def test_a_plan_writes_nothing(capsys, tmp_path):
    plan_rows(capsys, CONFIGS / "demo.yaml", [], tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_changes_of_the_recipe_are_shown_as_run_will_treat_them(capsys, tmp_path):
    run, recipe = tmp_path / "run", CONFIGS / "demo.yaml"
    config = load_config(recipe)
    set_up(run, config, [], accept_changes=False)
    for stage in place_stages(config, run, STAGES).values():
        finish(stage)
    assert print_plan(recipe, ["evaluate.batch=7"], run) == 0
    assert f"\nmade anew, beside the old in {run}: evaluate, fuse" in capsys.readouterr().out
    assert print_plan(recipe, ["optim.lr=7"], run) == 0
    shown = capsys.readouterr().out
    assert f"{run} was set up with another recipe; this one differs in\n  optim.lr: 0.05 -> 7.0\n" in shown
    assert "\n`run` will want --accept-changes\n" in shown
    assert print_plan(recipe, ["threads=7"], run) == 0
    assert "beside" not in capsys.readouterr().out


def test_unfinished_work_and_a_damaged_seal_are_a_line_each(capsys, tmp_path):
    placed = place_stages(load_config(CONFIGS / "demo.yaml"), tmp_path, STAGES)
    for name in ("prepare", "build"):
        finish(placed[name])
    save_checkpoint(placed["train"].directory, 7)
    note_start(placed["train"].directory, Ranks(0, 0, 1))
    seal = placed["build"].directory / "seal.json"
    seal.write_bytes(seal.read_bytes()[:-9])
    rows = plan_rows(capsys, CONFIGS / "demo.yaml", [], tmp_path)
    assert rows["train"].endswith("unfinished work, saved after step 7 (killed)")
    assert f"{seal}: not a readable seal" in rows["build"]


def test_a_missing_engine_is_a_warning_of_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", None)
    rows = plan_rows(capsys, CONFIGS / "demo.yaml", ["engine=apex"], tmp_path)
    assert rows["warning:"].startswith("on this machine `run` would refuse: engine: apex needs NVIDIA Apex for ")
    assert rows["warning:"].endswith(": it is not installed; " + BUILD_APEX)
    # What is trained already needs no engine, and PyTorch alone is always there.
    placed = place_stages(load_config(CONFIGS / "demo.yaml", ["engine=apex"]), tmp_path, STAGES)
    for stage in placed.values():
        if stage.stage.is_training:
            finish(stage)
    assert "warning:" not in plan_rows(capsys, CONFIGS / "demo.yaml", ["engine=apex"], tmp_path)
    assert "warning:" not in plan_rows(capsys, CONFIGS / "demo.yaml", [], tmp_path / "other")


@pytest.mark.parametrize(
    ("gpus", "variable", "compiler", "language"), [(0, "CXX", "g++", "C++"), (1, "CC", "gcc", "C")]
)
def test_a_compiler_that_is_missing_is_told_before_hours_of_work(
    capsys, tmp_path, monkeypatch, gpus, variable, compiler, language
):
    for name in ("CC", "CXX", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    commands, overrides = tmp_path / "bin", ["execution.compile=true"]
    monkeypatch.setenv("PATH", str(commands))

    def install(name: str, text: str) -> None:
        commands.mkdir(exist_ok=True)
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)

    if gpus:
        install("nvidia-smi", "echo 'GPU 0: H100'")
    refused = f"execution.compile: torch.compile needs a {language} compiler, and {compiler}"
    assert refused in plan_rows(capsys, CONFIGS / "demo.yaml", overrides, tmp_path / "run")["warning:"]
    assert main(["run", str(CONFIGS / "demo.yaml"), *overrides, "--run", str(tmp_path / "run")]) == 2
    assert refused in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv(variable, "nowhere -O1")
    named = f"and nowhere is not found ({variable} is 'nowhere -O1'); install {compiler}, or write"
    assert named in plan_rows(capsys, CONFIGS / "demo.yaml", overrides, tmp_path / "run")["warning:"]
    monkeypatch.delenv(variable)
    install(compiler, "")
    assert "warning:" not in plan_rows(capsys, CONFIGS / "demo.yaml", overrides, tmp_path / "run")


def test_what_wandb_gets_is_said_with_its_size_before_it_is_uploaded(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = [f"data.root={tmp_path / 'none'}"]
    recipe = CONFIGS / "senet154_8gpu.yaml"
    assert plan_rows(capsys, recipe, [*overrides, "plans=[center224, 10crop]", "upload_weights=true"], tmp_path)[
        "W&B"
    ] == (
        "offline, project senet154: curves, console, report, scores of 2 crop plans and their fusion (each 100.0 MB), "
        "weights, last and best (each 461.3 MB)"
    )
    assert plan_rows(capsys, recipe, [*overrides, "upload_scores=false"], tmp_path)["W&B"] == (
        "offline, project senet154: curves, console, report"
    )
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "W&B" not in plan_rows(capsys, recipe, overrides, tmp_path)


def test_measured_speed_replaces_the_expected_one_and_done_steps_are_taken_off(capsys, tmp_path, monkeypatch):
    overrides = ["processes=1", "epochs=10", "train.frozen_epochs=2", "global_batch=64"]
    config = load_config(CONFIGS / "demo.yaml", overrides)
    train = place_stages(config, tmp_path, STAGES)["train"].directory
    train.mkdir()
    note_start(train, Ranks(0, 0, 2))
    events = EventLog(train)
    for step in range(46, 91):
        events.write("train", global_step=step, images_per_second=320.0)
    events.close()
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr("time.time", lambda: now + 60)  # times are rounded, and must not be equal
        note_start(train, Ranks(0, 0, 8))  # has not measured anything yet
    rows = plan_rows(capsys, CONFIGS / "demo.yaml", overrides, tmp_path)
    # 225 steps x 64 images / 160 images/s = 90 s; 90 of the steps are done
    assert rows["time"].startswith(
        "about 1 min 30 s of training, 54 s of it left, at 1 x 160 images/s (measured in this run's train)"
    )
    assert rows["train"].startswith("waiting")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "step", "drop_epochs": (), "warmup_epochs": 0.0}, "0.05 throughout"),
        (
            {"kind": "step", "drop_epochs": (2.0, 4.5), "warmup_epochs": 0.0},
            "0.05, 0.005 from epoch 2, 0.0005 from epoch 4.5; 6 epochs in all",
        ),
        (
            {"kind": "cosine", "drop_epochs": (), "warmup_epochs": 0.5},
            "linear up to 0.05 over the first 0.5 epochs, then 0.05 falling as a cosine to 0 at epoch 6",
        ),
        (
            {"drop_epochs": (), "drop_steps": (32_000,), "warmup_epochs": 0.0, "warmup_steps": 400, "warmup_lr": 0.01},
            "0.01 over the first 400 steps, then 0.05, 0.005 from step 32,000; 6 epochs in all",
        ),
    ],
)
def test_schedule_in_one_line(tmp_path, schedule, expected):
    assert describe_schedule(small_recipe(tmp_path, schedule=schedule)) == expected


@pytest.mark.parametrize("sweep", [[], ["sweep.seed=[1, 2]"]])
def test_plan_refuses_lengths_in_steps_beyond_the_end_of_training(tmp_path: Path, sweep: list[str]) -> None:
    steps = ["warmup_epochs=0", "warmup_steps=70000", *sweep]
    with pytest.raises(UserError, match=r"schedule.warmup_steps: must be less than the 62,557 steps of train.epochs"):
        print_plan(CONFIGS / "senet154_ilsvrc2017.yaml", steps, tmp_path / "run")


def test_overrides_are_told_in_full_before_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(CONFIGS / "demo.yaml", ["epochs=90", "lr=0.1"], tmp_path / "run")
    assert capsys.readouterr().out.startswith("train.epochs = 90\noptim.lr = 0.1\n")


def test_the_network_is_told_for_the_classes_that_prepare_has_counted(capsys, tmp_path):
    recipe, overrides = CONFIGS / "own_images.yaml", [f"data.root={tmp_path}"]
    assert plan_rows(capsys, recipe, overrides, tmp_path)["network"] == (
        "senet154: 115,088,984 parameters, 20.69 GMAC an image for 1,000 classes, since prepare has still to count them"
    )
    prepare = place_stages(load_config(recipe, overrides), tmp_path, STAGES)["prepare"]
    finish(prepare, {"classes": 4})
    rows = plan_rows(capsys, recipe, overrides, tmp_path)
    assert rows["network"] == "senet154: 113,048,180 parameters, 20.69 GMAC an image"
    assert rows["checkpoint"].startswith("905.4 MB")  # 4 x (2 x 113,048,180 + 247,552) bytes
    (prepare.parts[0].directory / "seal.json").write_text("{")
    assert "for 1,000 classes" in plan_rows(capsys, recipe, overrides, tmp_path)["network"]


def test_plan_says_that_another_block_is_reckoned_like_the_paper_s(capsys, tmp_path):
    overrides = ["model.name=resnet_nano", "model.se.reduction=4", "dropout=null"]
    rows = plan_rows(capsys, CONFIGS / "demo.yaml", overrides, tmp_path)
    assert rows["network"] == (
        "se_resnet_nano (reduction 4): 160,766 parameters, 0.001945 GMAC an image by the layer table of "
        "se_resnet_nano, as are memory and checkpoints; --simulate counts this one"
    )
