from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.named_files import RECORD, record_files
from pipeline.running.stage import parts_of, place_stages
from stages import STAGES
from tests.recipes import small_recipe

PREPARED = {"prepare-train", "prepare-val"}
TRAINED = {"train", "freeze_bn", "evaluate", "fuse", "report"}
KNOWN = PREPARED | {"build"} | TRAINED
"""What the cases below speak of; a stage that is added tells in a test of its own what touches it."""


def keys(config: Config, run: Path = Path("run")) -> dict[str, str]:
    return {name: part.key for name, part in parts_of(place_stages(config, run, STAGES)).items()}


def changed(**sections: Any) -> set[str]:
    """Names of the parts whose key the change touches."""
    before, after = keys(small_recipe(Path("/images"))), keys(small_recipe(Path("/images"), **sections))
    return {name for name in before if before[name] != after.get(name)}


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"data": {"root": "/elsewhere/", "train": "t", "shards": "/shards"}}, set()),
        ({"train": {"validate_every_epochs": 2}}, set()),
        ({"data": {"exclude": ["val/a/b.jpg"]}}, {"prepare-val", *TRAINED}),
        ({"input": {"mean": [1.0, 2.0, 3.0]}}, TRAINED),
        ({"seed": 12}, {"build", *TRAINED}),
        ({"model": {"dropout": 0.1}}, {"build", *TRAINED}),
        ({"optim": {"lr": 0.06}}, TRAINED),
        ({"train": {"frozen_epochs": 1}}, TRAINED),
        ({"freeze_bn": {"scope": "statistics"}}, TRAINED - {"train"}),
        ({"evaluate": {"batch": 4}}, {"evaluate", "fuse", "report"}),
        ({"fuse": {"averaging": "logits"}}, {"fuse", "report"}),
        ({"name": "other"}, {"report"}),
    ],
)
def test_a_change_touches_the_parts_it_can_change_and_those_made_from_them(
    change: dict[str, Any], touched: set[str]
) -> None:
    assert changed(**change) & KNOWN == touched


def test_without_frozen_epochs_evaluate_reads_train() -> None:
    placed = place_stages(small_recipe(Path("/images"), train={"frozen_epochs": 0}), Path("run"), STAGES)
    assert "freeze_bn" not in placed
    assert placed["evaluate"].inputs == ("prepare", "train")


def test_a_weight_file_needs_one_split_and_its_content_is_in_the_key(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"one")
    config = small_recipe(Path("/images"), evaluate={"weights": str(file)})
    placed = place_stages(config, Path("run"), STAGES)
    assert [name for name in parts_of(placed) if name in KNOWN] == ["prepare-val", "evaluate", "fuse", "report"]
    before = keys(config)
    file.write_bytes(b"other")
    assert keys(config)["evaluate"] != before["evaluate"]
    assert keys(config)["prepare-val"] == before["prepare-val"]
    moved = file.rename(tmp_path / "renamed.safetensors")
    assert keys(small_recipe(Path("/images"), evaluate={"weights": str(moved)})) == keys(config_of(moved))


def config_of(weights: Path) -> Config:
    return small_recipe(Path("/images"), evaluate={"weights": str(weights)})


def test_the_path_of_a_weight_file_is_in_no_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"the same")
    one, two = (keys(config_of(tmp_path / f"{name}.safetensors")) for name in ("one", "two"))
    assert one == two


def test_a_file_that_the_recipe_names_must_be_there() -> None:
    with pytest.raises(UserError, match=r"evaluate\.weights: nothing there \(given /nowhere/weights\.safetensors\)"):
        keys(config_of(Path("/nowhere/weights.safetensors")))


def test_a_file_on_record_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, run = tmp_path / "weights.safetensors", tmp_path / "run"
    file.write_bytes(b"weights")
    run.mkdir()
    record_files([file], run)
    assert (run / RECORD).exists()
    before = keys(config_of(file), run)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("pipeline.running.named_files.sha256_of", refuse)
    assert keys(config_of(file), run) == before


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_evaluation_of_a_weight_file_reads_its_one_split(split: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    config = small_recipe(
        Path("/images"),
        data={"dataset": "imagenet", "test": "test"},
        model={"num_classes": 1000},
        evaluate={"weights": str(file), "split": split},
    )
    parts = parts_of(place_stages(config, Path("run"), STAGES))
    assert [name for name in parts if name.startswith("prepare")] == [f"prepare-{split}"]
