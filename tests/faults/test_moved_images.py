"""Images may move while a run stands still; other images are refused before a step is taken on them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.config.reader import write_run_config
from pipeline.running.attempts import read_outcome
from pipeline.running.stage import PlacedStage, parts_of, place_stages
from pipeline.store.file import sha256_of
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import finish, run_stage_to_end, start_stage
from tests.recipes import small_recipe

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def prepared(folder: Path) -> tuple[Path, Path, dict[str, PlacedStage]]:
    """Images, and a run that has its index and initial weights."""
    images = write_image_folders(folder / "images", num_classes=4, train_per_class=20, val_per_class=5)
    run = folder / "run"
    config = small_recipe(images)
    write_run_config(run, config)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    return images, run, place_stages(config, run, STAGES)


def stop_after(step: int, run: Path, directory: Path) -> None:
    """Train until the record tells of `step`, and stop by SIGTERM."""
    (process,) = start_stage(run, "train")
    end = time.monotonic() + 60
    while not any(event["global_step"] >= step for event in read_events(directory, "train")):
        assert time.monotonic() < end, f"no step {step}"
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [75]


def test_a_run_goes_on_to_the_same_bits_after_its_images_have_moved(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    _, whole_run, whole = prepared(tmp_path / "whole")
    run_stage_to_end(whole_run, "train")

    (tmp_path / "moved").mkdir()
    images, run, placed = prepared(tmp_path / "moved")
    stop_after(3, run, placed["train"].directory)
    elsewhere = images.rename(tmp_path / "another disk")
    link = tmp_path / "link"
    link.symlink_to(elsewhere, target_is_directory=True)
    run_stage_to_end(run, "train", overrides=(f'data.root="{link}/"',))

    digests = {name: sha256_of(stages["train"].directory / "weights.safetensors") for name, stages in
               (("whole", whole), ("moved", placed))}  # fmt: skip
    assert digests["moved"] == digests["whole"]
    train = "prepare-train"
    assert (
        (parts_of(placed)[train].directory / "index.json").read_bytes()
        == (parts_of(whole)[train].directory / "index.json").read_bytes()
    )  # fmt: skip


def test_a_file_that_was_replaced_by_another_of_its_size_ends_training_before_a_step(tmp_path: Path) -> None:
    images, run, placed = prepared(tmp_path)
    train = placed["train"].directory
    first, second = sorted((images / "train").rglob("*.jpg"))[:2]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    assert second.exists()
    (process,) = start_stage(run, "train")
    assert finish([process]) == [2]
    outcome = read_outcome(train)
    assert outcome is not None
    assert f"{first.parent.name}/{first.name}" in outcome.message
    assert "put the old ones back" in outcome.message
    assert "--run" in outcome.message
    assert list(read_events(train, "train")) == []
