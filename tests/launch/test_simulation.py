from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launch import simulation
from launch.plan import print_plan
from launch.simulation import describe_rates, describe_sharding
from pipeline.config.reader import write_run_config
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError
from pipeline.running.simulation import Network, Sharding, Simulation
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.launch.finished import finish_prepare
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

RECIPE = REPOSITORY / "configs" / "senet154_ilsvrc2017.yaml"
PROFILES = REPOSITORY / "slurm" / "profiles"
EXACT = Sharding(64, 1_281_167, 2, 1252, 40_064, 40_064, 0, 0, 0)
NETWORK = Network(1000, 5_000_000, 224, 0, 4_000, 8_000)


def simulated(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What the simulation printed, each line by its first word."""
    lines = capsys.readouterr().out.partition("simulation, without GPUs\n")[2].splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def test_simulation_of_the_winning_recipe_on_64_ranks_has_its_numbers(capsys, tmp_path):
    assert print_plan(RECIPE, [], tmp_path / "run", PROFILES / "8x8_gpu.yaml", simulate=True) == 0
    assert simulated(capsys) == {
        "network": "senet154, built on the meta device: 115,088,984 parameters, 20.69 G multiply-adds an image of "
        "224 px; all 3 claims of model.expect hold",
        # Drops at 30, 60 and 90 epochs of 625.57 steps; the warm-up ends after 5.
        "lr": "0.00032 in step 1, 1 from step 3,128, 0.1 from step 18,769, 0.01 from step 37,536, 0.001 from step "
        "56,303",
        "shards": "64 ranks, epochs 1 to 2 (steps 1 to 1,252), an index of the published size (prepare is not done) of "
        "1,281,167 images: every image exactly once an epoch; every rank 40,064 images, 32 a step",
        # 2048 / (64 x 170) s; 62,557 x 2048 / (64 x 170) s = 11,775.4 s; 64 times as many GPU-seconds
        "time": "0.188 s a step at 64 x 170 images/s (resources.expected_images_per_second); 62,557 steps take "
        "3 h 16 min, 209.3 GPU-hours; validation and checkpoints come on top",
        "checkpoints": "100 of 921.7 MB (95 in train, 5 in freeze_bn), 92.17 GB written in all; 100 validations",
        # 2 stages x 3 kept + the one being written; 7 x 921.70 + 3 x 461.35 MB
        "disk": "at most 7.84 GB at once: 7 checkpoints and 3 weight files of 461.3 MB; the index and evaluation's "
        "scores come on top",
    }
    assert list(tmp_path.iterdir()) == []


def test_the_index_of_a_finished_prepare_is_what_is_shared(capsys, tmp_path):
    config = small_recipe(tmp_path, resources={"processes": 3})
    write_run_config(tmp_path / "recipe", config)
    finish_prepare(place_stages(config, tmp_path / "run", STAGES)["prepare"], 50)
    assert print_plan(tmp_path / "recipe" / "config.yaml", [], tmp_path / "run", simulate=True) == 0
    rows = simulated(capsys)
    assert rows["shards"] == (
        "3 ranks, epochs 1 to 2 (steps 1 to 5), prepare's index of 50 images: every image exactly once an epoch; every "
        "rank 40 images, 8 a step"
    )
    assert rows["time"].startswith("unknown; resources.expected_images_per_second is not set")
    # Epochs end with steps 3, 5, 7 and 9; freeze_bn goes on to 11 and 13; and every 4 steps.
    assert "9 of" in rows["checkpoints"]
    assert "(6 in train, 3 in freeze_bn)" in rows["checkpoints"]


def test_a_broken_sharding_is_said_and_ends_with_1(capsys, monkeypatch, tmp_path):
    broken = dataclasses.replace(EXACT, missing=3, repeated=2, foreign=1, fewest=40_063)
    monkeypatch.setattr(simulation, "_ask", lambda request: Simulation(NETWORK, broken))
    assert print_plan(RECIPE, [], tmp_path, simulate=True) == 1
    printed = capsys.readouterr()
    assert "the loaders do not share the images as they must" in printed.err
    assert describe_sharding(broken, 2048, real=True) in printed.out.replace(
        "an index of the published size (prepare is not done)", "prepare's index"
    )
    assert describe_sharding(broken, 2048, real=True) == (
        "WRONG: 64 ranks, epochs 1 to 2 (steps 1 to 1,252), prepare's index of 1,281,167 images: 3 times an image is "
        "seen by no rank in an epoch; 2 times an image is seen more than once in an epoch; 1 times an image is asked "
        "for that the index does not have; a rank gets 40,063 images, another 40,064"
    )


def test_a_profile_that_does_not_fit_is_refused_before_anything_is_simulated(tmp_path):
    with pytest.raises(UserError, match=r"1x8_gpu.yaml.* = 8 processes, the recipe wants resources.processes = 64"):
        print_plan(RECIPE, [], tmp_path, PROFILES / "1x8_gpu.yaml", simulate=True)


def test_the_processes_of_a_profile_are_those_of_the_plan(capsys, tmp_path):
    assert print_plan(RECIPE, ["processes=8"], tmp_path, PROFILES / "1x8_gpu.yaml") == 0
    assert "global batch 2048 = 8 processes x 32 images x 8 accumulation steps" in capsys.readouterr().out


def test_an_unknown_number_of_images_cannot_be_simulated(tmp_path):
    write_run_config(tmp_path / "recipe", small_recipe(tmp_path))
    with pytest.raises(UserError, match=r"--simulate: .* not known before prepare is done \(given data.dataset folder"):
        print_plan(tmp_path / "recipe" / "config.yaml", [], tmp_path / "run", simulate=True)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"drop_epochs": [], "warmup_epochs": 0.0}, "0.05 from step 1"),
        # 50 images in steps of 24: the warm-up ends in step 3, epoch 3 begins with step 8, of 13
        ({"drop_epochs": [3.0], "warmup_epochs": 1.0}, "0.024 in step 1, 0.05 from step 3, 0.005 from step 8"),
    ],
)
def test_rates_of_a_step_schedule_by_step(tmp_path: Path, schedule, expected):
    assert describe_rates(small_recipe(tmp_path, schedule=schedule), StreamOrder(50, 24, 0)) == expected


def test_rates_of_a_cosine_end_with_the_last_step(tmp_path: Path):
    config = small_recipe(tmp_path, schedule={"kind": "cosine", "drop_epochs": [], "warmup_epochs": 0.0})
    text = describe_rates(config, StreamOrder(50, 24, 0))
    # 0.05 x (1 + cos(pi x 5.76 / 6)) / 2 in step 13, before which 12 x 24 / 50 = 5.76 epochs were seen
    assert text == "0.05 from step 1, 0.000197 in step 13"
