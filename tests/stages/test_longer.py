"""A finished run whose `train.epochs` is raised ends with the bits of one that had the number from the start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.run_directory import set_up
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.models.weights import read_weights
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from pipeline.store.seal import read_seal
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.images import write_image_folders
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

STAGES_OF_TRAINING = ("prepare", "build", "train", "freeze_bn")
STEP = {"kind": "step", "drop_epochs": [2.0], "warmup_epochs": 1.0}
LATER_DROP = {**STEP, "drop_epochs": [2.0, 3.0]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), 4, train_per_class=9, val_per_class=3)


def recipe(images: Path, epochs: int, schedule: dict[str, Any], **sections: Any) -> Config:
    train = {"epochs": epochs, "frozen_epochs": 1, "max_micro_batch": 12} | sections.pop("train", {})
    return small_recipe(images, train=train, schedule=schedule, tracking={"log_every_steps": 1}, **sections)


def start(run: Path, config: Config) -> None:
    set_up(run, config, place_stages(config, run, STAGES).values(), accept_changes=False)


def train(run: Path, config: Config) -> None:
    start(run, config)
    for stage in STAGES_OF_TRAINING:
        assert run_stage(stage, config, run, STAGES) == 0, stage


def directory(run: Path, config: Config, stage: str) -> Path:
    return place_stages(config, run, STAGES)[stage].directory


@pytest.fixture(scope="module")
def first(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 epochs, the last one with frozen batch norms."""
    run = tmp_path_factory.mktemp("first") / "run"
    train(run, recipe(images, 3, STEP))
    return run


@pytest.fixture
def finished(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(first, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("schedule", [STEP, LATER_DROP], ids=["the same schedule", "a later drop"])
def test_more_epochs_end_with_the_bits_of_a_run_that_had_them_from_the_start(
    images: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schedule: dict[str, Any]
) -> None:
    short, long = recipe(images, 3, STEP), recipe(images, 5, schedule)
    capsys.readouterr()
    train(finished, long)
    shown = " ".join(capsys.readouterr().out.split())
    old = directory(finished, short, "train")
    assert (
        f"train.epochs 3 -> 5: train goes on after step 3 of {old}, with frozen batch norms only at its new end; made "
        "anew, beside the old: freeze_bn"
    ) in shown
    assert f"the training to 3 epochs in {old} is gone on with" in shown
    assert "going on after step 3, from" in shown

    whole = tmp_path / "whole"
    train(whole, long)
    for stage in ("train", "freeze_bn"):
        ours, theirs = (directory(run, long, stage) for run in (finished, whole))
        found, expected = (read_weights(each / "weights.safetensors") for each in (ours, theirs))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), f"{stage}: {name}"
        for kind in ("train", "validation"):
            told = [
                [(event["global_step"], event["loss"], event.get("lr")) for event in read_events(each, kind)]
                for each in (ours, theirs)
            ]
            assert told[0] == told[1], f"{stage}: {kind}"
        seals = [read_seal(each, "stage") for each in (ours, theirs)]
        assert seals[0] is not None
        assert seals[1] is not None
        assert seals[0].about["metrics"]["global_step"] == seals[1].about["metrics"]["global_step"]
    assert place_stages(short, finished, STAGES)["freeze_bn"].is_done, "the old work is gone"


def refusal(run: Path, config: Config) -> str:
    with pytest.raises(UserError) as raised:
        start(run, config)
    return str(raised.value)


def test_fewer_epochs_are_refused_with_the_steps_taken(images: Path, finished: Path) -> None:
    message = refusal(finished, recipe(images, 2, STEP | {"drop_epochs": []}))
    assert "has taken 3 steps, and this recipe has only 2" in message


def test_an_earlier_drop_is_refused_with_the_rate_that_differs(images: Path, finished: Path) -> None:
    message = refusal(finished, recipe(images, 5, {**STEP, "drop_epochs": [1.0, 4.0]}))
    assert "the finished training cannot be gone on from: step 3 of train-" in message
    assert "had the rate 0.05, and would now have 0.005" in message
    assert "train.epochs: 3 -> 5" in message


def test_another_change_beside_the_epochs_is_refused_as_ever(images: Path, finished: Path) -> None:
    message = refusal(finished, recipe(images, 5, STEP, optim={"lr": 0.1}))
    assert "optim.lr: 0.05 -> 0.1" in message
    assert "gone on" not in message
    message = refusal(finished, recipe(images, 5, STEP, freeze_bn={"scope": "statistics"}))
    assert 'freeze_bn.scope: "statistics_and_affine" -> "statistics"' in message


def test_a_cosine_is_refused_with_the_reason(images: Path, tmp_path: Path) -> None:
    cosine = {"kind": "cosine", "drop_epochs": [], "warmup_epochs": 0.0}
    run = tmp_path / "run"
    train(run, recipe(images, 2, cosine))
    message = refusal(run, recipe(images, 4, cosine))
    assert "since a cosine follows from the last epoch" in message, message


PLATEAU = {"kind": "plateau", "drop_epochs": [], "warmup_epochs": 1.0, "patience": 0, "threshold": 0.99}
"""No loss is ever that much better, so each epoch after the first is bad."""


def rates(run: Path, config: Config, stage: str) -> list[tuple[float, float]]:
    return [(event["epoch"], event["lr"]) for event in read_events(directory(run, config, stage), "train")]


def test_a_plateau_ends_training_and_the_frozen_epochs_follow_at_its_last_rate(images: Path, tmp_path: Path) -> None:
    """A step is two thirds of an epoch here."""
    config = recipe(images, 12, {**PLATEAU, "max_drops": 2})
    run = tmp_path / "run"
    train(run, config)
    steps, frozen = rates(run, config, "train"), rates(run, config, "freeze_bn")
    assert [rate for _, rate in steps] == pytest.approx([0.05 * 2 / 3, 0.05, 0.05, 0.005, 0.005, 0.0005])
    assert [rate for _, rate in frozen] == pytest.approx([0.0005, 0.0005])
    assert (steps[-1][0], frozen[-1][0]) == pytest.approx((4.0, 5.3333))
    for stage in ("train", "freeze_bn"):
        seal = read_seal(directory(run, config, stage), "stage")
        assert seal is not None
        assert seal.about["metrics"]["global_step"] == len(steps) + (len(frozen) if stage == "freeze_bn" else 0)

    # With a higher bound it is taken over as ended, without a step.
    higher = recipe(images, 15, {**PLATEAU, "max_drops": 2})
    train(run, higher)
    assert rates(run, higher, "train") == steps
    assert rates(run, higher, "freeze_bn") == frozen


def test_a_plateau_that_came_to_its_bound_goes_on_to_a_higher_one(images: Path, tmp_path: Path) -> None:
    short, long = recipe(images, 4, PLATEAU), recipe(images, 7, PLATEAU)
    train(tmp_path / "run", short)
    train(tmp_path / "run", long)
    train(tmp_path / "whole", long)
    assert rates(tmp_path / "run", long, "train") == rates(tmp_path / "whole", long, "train")
    found, expected = (
        read_weights(directory(run, long, "freeze_bn") / "weights.safetensors")
        for run in (tmp_path / "run", tmp_path / "whole")
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_plateau_of_other_settings_is_not_gone_on_with(images: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", recipe(images, 5, {**PLATEAU, "patience": 3})
    train(run, recipe(images, 4, PLATEAU))
    with pytest.raises(UserError, match="followed its validation losses by another schedule"):
        start(run, other)
