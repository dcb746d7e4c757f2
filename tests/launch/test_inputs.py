from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from launch.inputs import advise_on_sizes, check_initial_checkpoint, check_inputs
from pipeline.config.reader import load_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.models.weights import save_weights
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.launch.finished import finish, save_checkpoint
from tests.recipes import small_recipe


def check(config: Config, run: Path) -> None:
    check_inputs(config, place_stages(config, run, STAGES))


def test_all_missing_folders_are_named_at_once(tmp_path):
    config = small_recipe(tmp_path / "images")
    with pytest.raises(UserError, match=r"data\.root: must be a folder \(given .*/images\)"):
        check(config, tmp_path / "run")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"data\.train: must be a folder .*\ndata\.val: must be a folder"):
        check(config, tmp_path / "run")
    (tmp_path / "images" / "train").mkdir()
    (tmp_path / "images" / "val").mkdir()
    check(config, tmp_path / "run")


def test_a_relative_folder_is_told_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"data\.root: must be a folder \(given images, which is {tmp_path}/images\)"):
        check(small_recipe(Path("images")), tmp_path / "run")


def test_images_that_were_checked_already_may_be_gone(tmp_path):
    config = small_recipe(tmp_path / "images")
    finish(place_stages(config, tmp_path / "run", STAGES)["prepare"])
    check(config, tmp_path / "run")


def test_only_the_splits_that_are_wanted_must_be_there(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    images = tmp_path / "images"
    overrides = [f"data.root={images}", "data.test=test", f"evaluate.weights={weights}"]
    recipe = REPOSITORY / "configs" / "senet154_1gpu.yaml"
    images.mkdir()
    with pytest.raises(UserError, match=rf"\Adata\.val: must be a folder \(given {images}/val\)\n"):
        check(load_config(recipe, overrides), tmp_path / "run")
    with pytest.raises(UserError, match=rf"\Adata\.test: must be a folder \(given {images}/test\)\n"):
        check(load_config(recipe, [*overrides, "evaluate.split=test", "fuse.selection=none"]), tmp_path / "run")


def test_weights_of_another_network_are_refused_before_a_stage_starts(tmp_path):
    save_weights(weights := tmp_path / "w.safetensors", {}, {"model": "senet154"})
    for split in ("train", "val"):
        (tmp_path / split / "ant").mkdir(parents=True)
        (tmp_path / split / "ant" / "1.jpg").touch()
    for key in ("evaluate", "model"):
        config = small_recipe(tmp_path, **{key: {"weights": str(weights)}})
        with pytest.raises(UserError) as raised:
            check(config, tmp_path / "run")
        assert (
            str(raised.value).splitlines()
            == [
                f"model.num_classes: {tmp_path}/train has 1 class folder, ant (given 4); to have them counted, add "
                "model.num_classes=null",
                f"{key}.weights: {weights} has weights of senet154 (the recipe's network: {config.model.name}); to "
                "take their network add model.name=senet154",
            ][key == "evaluate" :]
        )


@pytest.mark.parametrize(
    ("metadata", "title", "added"),
    [
        ({"stride_in_3x3": "true"}, "resnet_nano (stride in the 3x3)", "model.stride_in_3x3=true"),
        (
            {"se": '{"reduction": 4}'},
            "se_resnet_nano (reduction 4)",
            "model.name=se_resnet_nano 'model.se={\"reduction\": 4}'",
        ),
    ],
)
def test_weights_of_a_network_of_the_same_tensors_or_another_block_are_refused(tmp_path, metadata, title, added):
    name = "se_resnet_nano" if "se" in metadata else "resnet_nano"
    save_weights(weights := tmp_path / "w.safetensors", {}, {"model": name, **metadata})
    config = small_recipe(tmp_path, model={"name": "resnet_nano"}, evaluate={"weights": str(weights)})
    with pytest.raises(UserError) as raised:
        check(config, tmp_path / "run")
    assert (
        f"evaluate.weights: {weights} has weights of {title} (the recipe's network: resnet_nano); to take their "
        f"network add {added}"
    ) in str(raised.value).splitlines()


def test_class_folders_that_the_weights_do_not_know_are_refused_before_a_stage_starts(tmp_path):
    save_weights(weights := tmp_path / "w.safetensors", {}, {"num_classes": "1000"})
    (tmp_path / "val" / "shark").mkdir(parents=True)
    (tmp_path / "val" / "shark" / "1.jpg").touch()
    config = small_recipe(tmp_path, evaluate={"weights": str(weights)})
    with pytest.raises(UserError, match=r"evaluate\.classes: the val images are in 1 class folder, shark; the "):
        check(config, tmp_path / "run")
    (tmp_path / "val" / "shark").rename(tmp_path / "val" / "n01440764")
    check(config, tmp_path / "run")


def test_crops_of_quite_another_size_than_is_trained_are_told(tmp_path):
    recipe = REPOSITORY / "configs" / "own_images.yaml"
    told = {}
    small = "train.image_size_px=64"
    for overrides in ([], [small], [small, "validation=center64", "plans=[center64]"]):
        config = load_config(recipe, [f"data.root={tmp_path}", *overrides])
        told[len(overrides)] = advise_on_sizes(config, place_stages(config, tmp_path / "run", STAGES))
    assert told == {
        1: "warning: training sees 64 px and other sizes are evaluated: train.validation (center224: 224 px), "
        "evaluate.plans (center224: 224 px); for the same size add train.validation=center64 "
        '"evaluate.plans=[center64]"',
        3: None,
        0: None,
    }


def test_a_checkpoint_is_known_by_its_seal(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 9)
    check_initial_checkpoint(small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(checkpoint)}))
    stage = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(tmp_path)})
    with pytest.raises(UserError, match=r"freeze_bn\.from_checkpoint: must be the directory of a checkpoint"):
        check_initial_checkpoint(stage)
    seal = checkpoint / "seal.json"
    seal.write_text(seal.read_text().replace('"global_step": 9', '"global_step": 8'))
    with pytest.raises(UserError, match=r"step-00000009/seal\.json: damaged"):
        check_initial_checkpoint(small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(checkpoint)}))


def test_a_pickle_to_be_evaluated_is_refused_with_the_command_that_converts_it(tmp_path):
    weights = tmp_path / "of others.pth"
    torch.save({}, weights)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    config = small_recipe(tmp_path, evaluate={"weights": str(weights)})
    with pytest.raises(
        UserError, match=r"evaluate\.weights: must be a safetensors file \(given .*of others\.pth\)"
    ) as raised:
        check(config, tmp_path / "run")
    words = shlex.split(str(raised.value).partition("with: ")[2])
    assert words[1:] == [
        "-m",
        "launch",
        "weights",
        "import",
        str(weights),
        f"{tmp_path}/of others-imported.safetensors",
    ]
