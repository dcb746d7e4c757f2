"""The recipes that come with the project: they load, say what they should, and change only on purpose."""

from __future__ import annotations

import difflib
import re

import pytest

from pipeline.config.reader import config_differences, load_config
from pipeline.networks.layers import Cost, layer_table
from pipeline.paper.tables import read_table
from tests.config.pinned import PINNED, RECIPES, named
from tests.conftest import REPOSITORY


def recipe(name: str):
    return load_config(REPOSITORY / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_recipe_loads_and_is_named_like_its_file(path):
    assert load_config(path, ["sweep=null"]).name == named(path)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_recipe_opens_with_source_hardware_time_expectation_and_command(path):
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for word in ("Source", "Hardware", "Time", "Expected", "Command"):
        assert re.search(rf"^# {word} +\S", header, re.MULTILINE), word
    assert f"python -m launch run {path.relative_to(REPOSITORY)}" in header


@pytest.mark.parametrize("name", PINNED)
def test_defaults_and_stage_keys_change_only_on_purpose(name):
    pinned, now = (REPOSITORY / name).read_text(), PINNED[name]()
    changes = difflib.unified_diff(pinned.splitlines(), now.splitlines(), name, "now", lineterm="", n=1)
    assert now == pinned, "\n".join(
        [
            *changes,
            "A default that changes gives recipes another meaning under the same key, and a key that changes throws "
            "finished work away: then raise the version of every stage whose result changes. A new key with the old "
            "behaviour as its default changes nothing else. To accept: python -m tests.config.pinned",
        ]
    )


def test_senet154_has_what_the_paper_gives():
    config = recipe("senet154_ilsvrc2017")
    assert (config.train.global_batch, config.optim.lr, config.optim.momentum) == (2048, 1.0, 0.9)
    assert config.train.global_batch == config.resources.processes * config.train.max_micro_batch
    assert (config.model.dropped_share, config.train.label_smoothing) == (0.2, 0.1)
    assert (config.train.image_size_px, config.augmentation.area, config.augmentation.flip) == (224, (0.08, 1.0), True)


@pytest.mark.parametrize(("name", "processes"), [("senet154_8gpu", 8), ("senet154_1gpu", 1)])
def test_fewer_gpus_change_no_number_of_the_training(name, processes):
    config = recipe(name)
    assert config.resources.processes == processes
    changed = {line.split(":")[0] for line in config_differences(recipe("senet154_ilsvrc2017"), config)}
    assert changed <= {"name", "resources.processes", "checkpoint.every_steps"}


def test_320_px_recipe_changes_nothing_but_the_size():
    changed = config_differences(recipe("senet154_ilsvrc2017"), recipe("senet154_320"))
    assert [line for line in changed if not line.startswith("evaluate.plans")] == [
        'name: "senet154_ilsvrc2017" -> "senet154_320"',
        "model.expect.gmacs: 20.69 -> 42.21",
        "model.expect.image_size_px: null -> 320",
        "train.image_size_px: 224 -> 320",
        'train.validation: "center224" -> "center320"',
        "resources.expected_images_per_second: 170.0 -> 83.0",
    ]


def test_the_contests_recipe_has_the_crops_of_table_8_and_of_multi_crop_fusion():
    plans = [plan.name for plan in recipe("senet154_ilsvrc2017").evaluate.plans]
    single = ["center224", "center320", "center320_sliding", "center320of352", "center320of366"]
    assert plans == [*single, "10crop", "144crop", "multiscale", "dense"]


def test_demo_trains_on_no_mirrored_digit():
    assert not recipe("demo").augmentation.flip


def test_demo_evaluates_what_the_contest_did_at_its_own_size():
    crops = [group for plan in recipe("demo").evaluate.plans for group in plan.crops]
    assert {group.crop_px for group in crops} == {recipe("demo").train.image_size_px}
    assert len({group.resize_px for group in crops}) == 3
    assert {group.mirror for group in crops} == {True, False}
    assert {len(group.positions) for group in crops} == {1, 5}


@pytest.mark.parametrize("table", ["table2", "table3"])
def test_each_network_of_a_table_has_a_recipe_with_the_paper_s_batch_rate_and_schedule(table):
    networks = [str(row.model) for row in read_table(table).rows]
    assert len(networks) == {"table2": 16, "table3": 4}[table]
    for name in networks:
        config = load_config(REPOSITORY / "configs" / "paper" / f"{table}_{name}.yaml")
        assert config.model.name == name
        found = (config.train.global_batch, config.optim.lr, config.schedule.kind, config.train.epochs)
        assert found == {"table2": (1024, 0.6, "step", 100), "table3": (256, 0.1, "plateau", 400)}[table]
        assert config.train.global_batch == config.resources.processes * config.train.max_micro_batch
        cost = Cost.of(layer_table(name))
        assert config.model.expect.parameters == cost.parameters
        assert config.model.expect.gmacs == pytest.approx(cost.macs / 1e9, abs=5e-5)
        (crop,) = config.train.validation.crops
        assert (crop.resize_px, crop.crop_px) == ((352, 299) if "inception_resnet" in name else (256, 224))


@pytest.mark.parametrize(("table", "dataset", "num_classes"), [("table4", "cifar10", 10), ("table5", "cifar100", 100)])
def test_each_network_on_cifar_has_a_recipe_with_its_own_paper_s_schedule(table, dataset, num_classes):
    of_family = {
        "preresnet": (128, 0.1, 1e-4, False, "step", 164, (32_000, 48_000), 0.1, 400, 0),
        "wrn16_8": (128, 0.1, 5e-4, True, "step", 200, (60, 120, 160), 0.2, 0, 0),
        "shake_shake": (128, 0.2, 1e-4, True, "cosine", 1800, (), 0.1, 0, 16),
        "shake_even": (32, 0.025, 5e-4, True, "cosine", 1800, (), 0.1, 0, 8),
    }
    rows = read_table(table).rows
    assert len(rows) == 8
    for name in (str(row.model) for row in rows):
        config = load_config(REPOSITORY / "configs" / "paper" / f"{table}_{name}.yaml")
        assert (config.model.name, config.data.dataset) == (name, dataset)
        optim, schedule = config.optim, config.schedule
        drops = schedule.drop_epochs or schedule.drop_steps
        found = (
            *(config.train.global_batch, optim.lr, optim.weight_decay, optim.nesterov, schedule.kind),
            *(config.train.epochs, drops, schedule.drop_factor, schedule.warmup_steps, config.augmentation.cutout_px),
        )
        (expected,) = (known for family, known in of_family.items() if name.removeprefix("se_").startswith(family))
        assert found == expected, name
        padded = (config.augmentation.crop, config.augmentation.padding_px, config.augmentation.padding)
        assert (padded, config.train.label_smoothing) == (("padded", 4, "zero"), 0.0)
        cost = Cost.of(layer_table(name, num_classes))
        assert config.model.expect.parameters == cost.parameters
        assert config.model.expect.gmacs == pytest.approx(cost.macs / 1e9, abs=5e-5)
        assert [(crop.resize_px, crop.crop_px) for crop in config.train.validation.crops] == [(32, 32)]
