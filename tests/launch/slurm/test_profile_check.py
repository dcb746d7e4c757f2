from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launch.slurm.profile import Profile, load_profile
from launch.slurm.profile_check import check_profile, training_world_size
from pipeline.config.reader import load_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.conftest import REPOSITORY

PATH = Path("p.yaml")


def profile(**shapes: dict[str, int]) -> Profile:
    stages = {stage.name: {"minutes": 60, **shapes.get(stage.name, {})} for stage in STAGES}
    return Profile.model_validate({"stages": stages, "warning_seconds": 60})


def recipe(*overrides: str) -> Config:
    return load_config(REPOSITORY / "configs" / "demo.yaml", overrides)


def check(config: Config, profile: Profile, tmp_path: Path) -> list[str]:
    placed = place_stages(config, tmp_path, STAGES)
    return check_profile(config, profile, PATH, placed, placed)


def test_what_fits_is_said_with_the_numbers(tmp_path):
    notes = check(recipe(), profile(train={"nodes": 2, "gpus_per_node": 4}), tmp_path)
    assert notes[0].startswith(
        "train: 2 nodes x 4 GPUs: global batch 64 = 8 processes x 8 images x 1 accumulation step"
    )
    assert len(notes) == 2


def test_a_batch_that_falls_into_single_images_is_warned_of(tmp_path):
    notes = check(recipe("global_batch=127"), profile(), tmp_path)
    assert notes[1].startswith("train: warning: the batch norms see 1 image at a time")
    assert [note for note in notes if "warning" in note] == notes[1:2]


@pytest.mark.parametrize(
    ("overrides", "shapes", "message"),
    [
        (
            [],
            {"train": {"nodes": 3, "tasks_per_node": 2}},
            "p.yaml: stages.train: 3 nodes x 2 tasks: train.global_batch: 64 images cannot be shared equally by 6",
        ),
        (
            ["processes=8"],
            {"train": {"nodes": 2, "tasks_per_node": 2}, "freeze_bn": {"tasks_per_node": 8}},
            "p.yaml: stages.train: 2 nodes x 2 tasks = 4 processes, the recipe wants resources.processes = 8; choose "
            "another profile, or add processes=4 if that is what you want (the global batch stays 64)",
        ),
        (
            [],
            {"prepare": {"nodes": 2}},
            "p.yaml: stages.prepare: 2 nodes x 1 task = 2 processes, but this stage runs as one process on one node",
        ),
        (
            ["expected_images_per_second=0.1", "every_epochs=1"],
            {"train": {"nodes": 2}},
            "p.yaml: stages.train.minutes: 60 min less 60 s of warning are shorter than the 2 h 3 min from one "
            "checkpoint to the next (23 steps of 64 images at 2 x 0.10 images/s "
            "(resources.expected_images_per_second)); give more minutes, or set checkpoint.every_steps to at most 11",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_the_numbers(tmp_path, overrides, shapes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check(recipe(*overrides), profile(**shapes), tmp_path)


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path):
    shapes: dict[str, Any] = {"prepare": {"nodes": 2}, "train": {"nodes": 3}, "freeze_bn": {"nodes": 5}}
    with pytest.raises(UserError) as caught:
        check(recipe(), profile(**shapes), tmp_path)
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == [
        "stages.prepare",
        "stages.train",
        "stages.freeze_bn",
    ]


def test_more_frequent_checkpoints_fit_into_the_time(tmp_path):
    check(
        recipe("expected_images_per_second=0.1", "every_steps=11"),
        profile(train={"nodes": 2}, freeze_bn={"nodes": 2}),
        tmp_path,
    )


@pytest.mark.parametrize(
    ("recipe_name", "name"),
    [
        ("senet154_ilsvrc2017", "8x8_gpu"),
        ("senet154_320", "8x8_gpu"),
        ("senet154_8gpu", "1x8_gpu"),
        ("senet154_1gpu", "1x1_gpu"),
        ("demo", "cpu_test"),
    ],
)
def test_every_recipe_has_a_profile_that_fits_it(tmp_path, recipe_name, name):
    config = load_config(REPOSITORY / "configs" / f"{recipe_name}.yaml")
    path = REPOSITORY / "slurm" / "profiles" / f"{name}.yaml"
    assert check(config, load_profile(path), tmp_path)


def test_the_world_size_of_training_is_the_profile_s():
    config = recipe()
    stages = place_stages(config, Path("runs/demo"), STAGES)
    assert training_world_size(config, profile(train={"nodes": 2, "gpus_per_node": 8}), stages) == 16
    assert training_world_size(config, profile(train={"nodes": 2}), {"report": stages["report"]}) == 1
