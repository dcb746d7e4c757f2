"""CIFAR through all stages: every form is one run, a crash leaves no trace, and other images are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.schema import Config
from pipeline.data.cifar_versions import CIFAR
from pipeline.data.verification import check_images
from pipeline.engines.native import NativeEngine
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.data.cifar_archives import (
    PER_CLASS,
    binary_files,
    cifar_images,
    python_files,
    shrink,
    write_archive,
    write_cifar,
)
from tests.recipes import small_recipe
from tests.stages.preparing import Prepared, run_prepare
from tests.stages.test_families import failing_after, run

PADDED = {"crop": "padded", "padding": "reflect", "cutout_px": 8, "rotation_degrees": 0.0}
pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def recipe(root: Path, dataset: str = "cifar10", **sections: Any) -> Config:
    sections["data"] = {"dataset": dataset, **sections.get("data", {})}
    return small_recipe(root, model={"num_classes": len(CIFAR[dataset].classes)}, **sections)


@pytest.fixture
def prepared(tmp_path: Path) -> dict[str, Prepared]:
    write_cifar(tmp_path / "data", "cifar10")
    return run_prepare(tmp_path / "run", recipe(tmp_path / "data"))


def test_the_index_names_images_by_their_numbers_and_says_what_was_read(prepared: dict[str, Prepared]) -> None:
    images = cifar_images("cifar10")
    for split, (pixels, labels) in images.items():
        index = prepared[split].index
        assert list(index.names) == [f"{number:05d}" for number in range(len(labels))]
        assert index.labels.tolist() == labels
        assert [one.folder for one in index.classes] == list(CIFAR["cifar10"].classes)
        assert np.array_equal(index.source.pixels, pixels)
        (said,) = (note for note in prepared[split].notes if note.startswith(f"{split}: {len(labels)} images"))
        assert "cifar-10-binary.tar.gz; another archive than the published one (MD5 " in said


def test_both_versions_of_the_archive_are_the_same_images(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    version = CIFAR["cifar10"].python
    write_archive(tmp_path / "py", version.archive, version.folder, python_files("cifar10", cifar_images("cifar10")))
    other = run_prepare(tmp_path / "other", recipe(tmp_path / "py"))
    for split in prepared:
        assert other[split].index.digest == prepared[split].index.digest


def test_all_pixels_are_compared_at_every_start(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    images = cifar_images("cifar10")
    check_images(prepared["train"].index, True, print)
    images["train"][0][17, 3, 4, 1] ^= 1
    version = CIFAR["cifar10"].binary
    write_archive(tmp_path / "data", version.archive, version.folder, binary_files("cifar10", images))
    told = r"train images: 1 of 50 looked at are missing or others .*\n.*: 00017: its pixels have changed"
    with pytest.raises(UserError, match=told):
        check_images(prepared["train"].index, True, print)


def test_another_order_is_an_index_of_its_own(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    images = cifar_images("cifar10")
    turned = {split: (pixels[::-1], labels[::-1]) for split, (pixels, labels) in images.items()}
    version = CIFAR["cifar10"].binary
    write_archive(tmp_path / "turned", version.archive, version.folder, binary_files("cifar10", turned))
    other = run_prepare(tmp_path / "other", recipe(tmp_path / "turned"))
    assert other["train"].index.digest != prepared["train"].index.digest


def test_excluded_images_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    images = write_cifar(tmp_path / "data", "cifar10")
    config = recipe(tmp_path / "data", data={"exclude": ("train/00003",)})
    index = run_prepare(tmp_path / "run", config, ("train",))["train"].index
    assert list(index.names[2:4]) == ["00002", "00004"]
    assert np.array_equal(index.source.pixels[3], images["train"][0][4])


@pytest.mark.parametrize("dataset", PER_CLASS)
def test_all_stages_run_and_a_crash_leaves_no_trace(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path / "data", dataset)
    config = recipe(
        tmp_path / "data",
        dataset,
        train={"epochs": 3, "frozen_epochs": 1},
        schedule={"drop_epochs": []},
        augmentation=PADDED,
    )
    run(config, tmp_path / "whole")
    run(config, tmp_path / "crashed", "prepare", "build")
    with monkeypatch.context() as patch:
        patch.setattr(NativeEngine, "step", failing_after(3))
        assert run_stage("train", config, tmp_path / "crashed", STAGES) != EXIT_DONE
    run(config, tmp_path / "crashed", "train", "freeze_bn", "evaluate")
    for stage, name in (("freeze_bn", "weights.safetensors"), ("evaluate", "scores-center32.npy")):
        paths = [
            place_stages(config, tmp_path / which, STAGES)[stage].directory / name for which in ("whole", "crashed")
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes(), stage
