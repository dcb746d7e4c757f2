from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.models import create_model
from pipeline.models.weights import read_weights
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from pipeline.store.seal import Seal, SealedFile, is_sealed, read_seal
from pipeline.store.weight_header import read_metadata
from stages import STAGES
from tests.recipes import small_recipe

NANO = {"parameters": 557_272, "gmacs": 0.00645}


def _recipe(tmp_path: Path, expect: dict[str, Any] | None = None, **sections: Any) -> Config:
    model = {"name": "senet_nano", "num_classes": 4, "expect": expect} | sections.pop("model", {})
    return small_recipe(tmp_path, model=model, **sections)


def _directory(config: Config, run: Path) -> Path:
    return place_stages(config, run, STAGES)["build"].directory


def _build(config: Config, run: Path) -> int:
    return run_stage("build", config, run, STAGES)


def _seal(config: Config, run: Path) -> Seal:
    seal = read_seal(_directory(config, run), "stage")
    assert seal is not None
    return seal


def test_build_leaves_seeded_weights_a_summary_and_metrics(tmp_path: Path) -> None:
    config = _recipe(tmp_path, NANO)
    assert _build(config, tmp_path) == 0
    directory = _directory(config, tmp_path)
    seal = _seal(config, tmp_path)
    assert set(seal.files) == {"weights.safetensors", "summary.txt", "summary.json"}
    assert seal.about["metrics"] == {"parameters": 557_272, "gmacs": pytest.approx(0.00645, rel=1e-3)}
    expected = create_model("senet_nano", 4, seed=config.seed).state_dict()
    weights = read_weights(directory / "weights.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    metadata = {"model": "senet_nano", "num_classes": "4", "stage": "build", "seed": "11"}
    assert read_metadata(directory / "weights.safetensors") == metadata


def test_building_again_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    config = _recipe(tmp_path)
    outputs: list[Mapping[str, SealedFile]] = []
    for run in (tmp_path / "a", tmp_path / "b"):
        torch.manual_seed(len(outputs))
        assert _build(config, run) == 0
        outputs.append(_seal(config, run).files)
    assert outputs[0] == outputs[1]


def test_summary_and_checks_are_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _recipe(tmp_path, NANO)
    _build(config, tmp_path)
    text = (_directory(config, tmp_path) / "summary.txt").read_text()
    shown = capsys.readouterr().out
    assert all(line in shown for line in text.splitlines())
    assert "senet_nano: 4 classes, images of 32 x 32 px" in text
    assert "Checked against model.expect:" in text
    assert "  parameters: 557,272 claimed, 557,272 found" in text
    summary = json.loads((_directory(config, tmp_path) / "summary.json").read_text())
    assert summary["parameters"] == 557_272
    assert [check["passed"] for check in summary["checks"]] == [True, True]


def test_recipe_that_claims_nothing_is_told_so(tmp_path: Path) -> None:
    config = _recipe(tmp_path)
    _build(config, tmp_path)
    text = (_directory(config, tmp_path) / "summary.txt").read_text()
    assert "Nothing was checked: the recipe has no model.expect." in text


def test_every_false_claim_is_listed_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _recipe(tmp_path, {"parameters": 115_088_984, "gmacs": 20.69, "layer_table": True})
    assert _build(config, tmp_path) == 2
    message = capsys.readouterr().err
    assert "model.expect: the network is not what the recipe claims" in message
    assert "parameters: 115,088,984 claimed, 557,272 found" in message
    assert "gmacs: 20.69 claimed at 32 px, 0.006449 found" in message
    assert "layer_table: the authors' claimed, 384 differences found" in message
    assert "layer0.conv1: out_channels is 16, in the authors' table (conv1_1/3x3_s2) 64" in message
    assert "and 374 more" in message
    assert "Traceback" not in message
    assert not is_sealed(_directory(config, tmp_path))
    assert not (_directory(config, tmp_path) / "weights.safetensors").exists()


@pytest.mark.parametrize(("gmacs", "code"), [(0.00645, 0), (0.0065, 0), (0.0066, 2), (0.01, 2)])
def test_gmacs_of_a_small_network_are_compared_to_one_percent(tmp_path: Path, gmacs: float, code: int) -> None:
    assert _build(_recipe(tmp_path, NANO | {"gmacs": gmacs}), tmp_path) == code


@pytest.mark.parametrize(("image_size_px", "gmacs", "code"), [(320, 42.21, 0), (320, 42.23, 2), (224, 42.21, 2)])
def test_gmacs_are_those_at_the_claim_s_image_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_size_px: int, gmacs: float, code: int
) -> None:
    # The weights of the large network take seconds and are not looked at here.
    monkeypatch.setattr("stages.build.save_weights", lambda path, tensors, metadata: path.touch())
    monkeypatch.setattr("stages.build.initialise", lambda model, seed: None)
    config = _recipe(
        tmp_path,
        {"parameters": 115_088_984, "gmacs": gmacs, "layer_table": True, "image_size_px": image_size_px},
        model={"name": "senet154", "num_classes": 1000},
    )
    assert _build(config, tmp_path) == code


def test_data_normalisation_does_not_touch_the_initial_weights(tmp_path: Path) -> None:
    config = _recipe(tmp_path)
    moved = config.model_copy(update={"input": config.input.model_copy(update={"mean": (1.0, 2.0, 3.0)})})
    assert _directory(moved, tmp_path) == _directory(config, tmp_path)
