"""From weights that others trained to a result on a few classes of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from launch.run_directory import set_up
from pipeline.config.schema import Config
from pipeline.models import create_model
from pipeline.models.head import is_in_head
from pipeline.models.weights import read_weights, save_weights
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from pipeline.store.seal import read_seal
from pipeline.store.weight_header import read_metadata
from stages import STAGES
from tests.images import write_image_folders
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

MEAN, STD = "[1.0, 2.0, 3.0]", "[4.0, 5.0, 6.0]"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network with five classes that was trained on other pixels."""
    path = tmp_path_factory.mktemp("weights") / "theirs.safetensors"
    pixels = {"mean": MEAN, "std": STD, "resize": "bilinear", "max_pool": "ceil"}
    save_weights(path, create_model("senet_nano", 5, seed=77).state_dict(), pixels)
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images of three classes, and a run that has indexed them."""
    images = write_image_folders(tmp_path_factory.mktemp("own") / "images", 3, train_per_class=10, val_per_class=4)
    run = tmp_path_factory.mktemp("run")
    config = recipe(images)
    assert run_stage("prepare", config, run, STAGES) == 0
    return images, run


def recipe(images: Path, weights: Path | None = None, **sections: Any) -> Config:
    model = {"num_classes": None, "weights": None if weights is None else str(weights)} | sections.pop("model", {})
    train = {"epochs": 3, "frozen_epochs": 1} | sections.pop("train", {})
    schedule = {"drop_epochs": ()}
    return small_recipe(images, model=model, train=train, schedule=schedule, **sections)


def directory(config: Config, run: Path, stage: str) -> Path:
    return place_stages(config, run, STAGES)[stage].directory


def build(config: Config, run: Path) -> dict[str, torch.Tensor]:
    assert run_stage("build", config, run, STAGES) == 0
    return read_weights(directory(config, run, "build") / "weights.safetensors")


def test_the_classes_are_counted_and_their_images_stand_in_the_seal(prepared) -> None:
    images, run = prepared
    config = recipe(images)
    assert build(config, run)["last_linear.weight"].shape[0] == 3
    seal = read_seal(directory(config, run, "build"), "stage")
    index = read_seal(place_stages(config, run, STAGES)["prepare"].parts[0].directory, "stage")
    assert seal is not None
    assert index is not None
    assert seal.about["images"] == index.about["images"]
    assert read_metadata(directory(config, run, "build") / "weights.safetensors")["num_classes"] == "3"


def test_build_takes_all_but_a_classifier_of_another_size_and_says_so(prepared, weights, capsys) -> None:
    images, run = prepared
    config = recipe(images, weights)
    found, theirs = build(config, run), read_weights(weights)
    new = create_model("senet_nano", 3, seed=config.seed).state_dict()
    for name, tensor in found.items():
        assert torch.equal(tensor, new[name] if is_in_head(name) else theirs[name]), name
    shown = capsys.readouterr().out
    assert (
        f"beginning with the weights of {weights}, but for the classifier, which has another size and is new"
        in " ".join(shown.split())
    )


def test_the_key_is_that_of_the_weights_content(prepared, weights, tmp_path) -> None:
    images, run = prepared
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    assert directory(recipe(images, moved), run, "build") == directory(recipe(images, weights), run, "build")
    save_weights(moved, create_model("senet_nano", 5, seed=78).state_dict(), {})
    assert directory(recipe(images, moved), run, "build") != directory(recipe(images, weights), run, "build")
    assert directory(recipe(images), run, "build") != directory(recipe(images, weights), run, "build")


def test_weights_of_another_network_are_refused_with_the_key(prepared, tmp_path, capsys) -> None:
    images, run = prepared
    other = tmp_path / "other.safetensors"
    save_weights(other, {"fc.weight": torch.zeros(3, 3)}, {})
    assert run_stage("build", recipe(images, other), run, STAGES) == 2
    message = capsys.readouterr().err
    assert f"model.weights: {other}: these weights are not this network's" in message
    assert "choose the network that they belong to in model.name" in message


@pytest.mark.parametrize("only_head", [False, True])
def test_finetuning_comes_to_a_result(prepared, weights, capsys, only_head: bool) -> None:
    images, run = prepared
    config = recipe(images, weights, optim={"head_lr_factor": 4.0}, train={"only_head": only_head})
    set_up(run, config, place_stages(config, run, STAGES).values(), accept_changes=True)
    for stage in ("build", "train", "freeze_bn", "evaluate"):
        assert run_stage(stage, config, run, STAGES) == 0, stage
    begun = read_weights(directory(config, run, "build") / "weights.safetensors")
    ended = read_weights(directory(config, run, "freeze_bn") / "weights.safetensors")
    moved = {name for name, tensor in ended.items() if not torch.equal(tensor, begun[name])}
    head = {name for name in ended if is_in_head(name)}
    assert moved >= head
    assert (moved == head) is only_head
    seal = read_seal(directory(config, run, "evaluate"), "stage")
    assert seal is not None
    assert seal.about["metrics"]["center32"]["top1_error_percent"] <= 100
    shown = " ".join(capsys.readouterr().out.split())
    assert f"for theirs, input.mean={MEAN} input.std={STD}" in shown
    assert ("the classifier alone learns (train.only_head)" in shown) is only_head


def test_a_head_on_random_features_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"train\.only_head: a classifier on random features learns little"):
        recipe(tmp_path, train={"only_head": True})


def test_graphs_have_nothing_to_capture_below_the_head(tmp_path, weights) -> None:
    with pytest.raises(ValueError, match=r"native\.cuda_graphs: with train\.only_head there is no backward pass"):
        recipe(tmp_path, weights, train={"only_head": True}, native={"cuda_graphs": True})
