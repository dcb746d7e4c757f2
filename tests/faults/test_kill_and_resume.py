"""Killed at any instant, a stage goes on from what it saved and ends as if it had never been killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.reader import write_run_config
from pipeline.running.attempts import read_attempts, read_outcome
from pipeline.running.stage import PlacedStage, parts_of, place_stages
from pipeline.store.seal import SEAL, read_seal, verify_files
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import finish, run_stage_to_end, start_stage
from tests.recipes import small_recipe

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

DISTRIBUTED = tuple(stage.name for stage in STAGES if stage.is_distributed)
KILLS = {1: 10, 2: 4, 3: 4, 4: 4}
"""How many kills must hit a living process, for each number of processes: 22 in all."""
ATTEMPTS = 3
"""How often a stage is shot at before it may finish."""
TIMINGS = {"time", "images_per_second", "data_wait_percent", "seconds", "crc"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=20, val_per_class=5)


CHOICES: dict[str, dict[str, Any]] = {
    "augmentation": {"rotation_degrees": 10.0, "rotate": "before_crop", "interpolation": "bicubic"},
    "train": {"bn_statistics": "mean"},
    "freeze_bn": {"statistics": "recompute", "statistics_images": 30},
}
"""Taken by the larger groups, so that these survive too; the largest ends by its validations, before the bound."""
PLATEAU = {"kind": "plateau", "drop_epochs": [], "patience": 0, "threshold": 0.99, "max_drops": 1}


def start_run(run: Path, images: Path, world_size: int) -> dict[str, PlacedStage]:
    run.mkdir()
    choices = CHOICES if world_size > 2 else {}
    config = small_recipe(images, **choices, **({"schedule": PLATEAU} if world_size > 3 else {}))
    write_run_config(run, config)
    return place_stages(config, run, STAGES)


def world(stage: str, world_size: int) -> int:
    return world_size if stage in DISTRIBUTED else 1


def essence(placed: dict[str, PlacedStage]) -> dict[str, object]:
    """What a run has come to: the checksums of the results, and every event without its timings."""
    result: dict[str, object] = {}
    for name, part in parts_of(placed).items():
        seal = read_seal(part.directory, "stage")
        assert seal is not None
        verify_files(part.directory, seal)
        result[f"{name} images"] = seal.about["images"]
        if name not in ("evaluate", "fuse", "report"):
            result[name] = {
                file: sealed.sha256 for file, sealed in seal.files.items() if not file.endswith(("state.json", SEAL))
            }
        result[f"{name} events"] = [
            {field: value for field, value in event.items() if field not in TIMINGS}
            for event in read_events(part.directory)
        ]
    for scores in sorted(file for name in ("evaluate", "fuse") for file in placed[name].directory.glob("*.npy")):
        result[scores.name] = hashlib.sha256(scores.read_bytes()).hexdigest()
    return result


@pytest.fixture(scope="module")
def uninterrupted(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[int, tuple[dict[str, object], dict[str, float]]]]:
    """Result and seconds per stage of a run that was left alone, for each number of processes."""
    results: dict[int, tuple[dict[str, object], dict[str, float]]] = {}
    for world_size in KILLS:
        run = tmp_path_factory.mktemp("whole") / "run"
        placed = start_run(run, images, world_size)
        seconds = {}
        for stage in placed:
            started = time.monotonic()
            run_stage_to_end(run, stage, world(stage, world_size))
            seconds[stage] = time.monotonic() - started
        results[world_size] = (essence(placed), seconds)
    return results  # type: ignore[return-value]


@pytest.mark.parametrize("world_size", sorted(KILLS))
def test_killed_runs_end_with_the_same_bits_and_events(
    world_size: int,
    images: Path,
    tmp_path: Path,
    uninterrupted: dict[int, tuple[dict[str, object], dict[str, float]]],
) -> None:
    expected, seconds = uninterrupted[world_size]
    seed = 100 + world_size
    print(f"moments of the kills drawn with seed {seed}")
    chance = random.Random(seed)
    landed = 0
    for attempt in range(5):
        run = tmp_path / f"run{attempt}"
        placed = start_run(run, images, world_size)
        for stage in placed:
            # One process is enough for the stages that never have more.
            for _ in range(ATTEMPTS if world_size == 1 or stage in DISTRIBUTED else 0):
                landed += kill_at(chance.uniform(0.0, 0.9) * seconds[stage], run, stage, world(stage, world_size))
            run_stage_to_end(run, stage, world(stage, world_size))
        found = essence(placed)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name] == expected[name], name
        if landed >= KILLS[world_size]:
            break
    assert landed >= KILLS[world_size]


def kill_at(moment: float, run: Path, stage: str, world_size: int) -> bool:
    """Start the stage and kill all its processes `moment` seconds later; returns whether they were still at work.

    The moment is the point of the test: it must fall anywhere, not at an event.
    """
    processes = start_stage(run, stage, world_size)
    processes[0].join(moment)
    hit = processes[0].exitcode is None
    for process in processes:
        process.kill()
    finish(processes)
    return hit


def wait_for_step(directory: Path, step: int, deadline: float = 60) -> None:
    """Until the event file tells of `step`."""
    end = time.monotonic() + deadline
    while not any(event["global_step"] >= step for event in read_events(directory, "train")):
        assert time.monotonic() < end, f"no step {step} in {directory}"
        time.sleep(0.005)


def test_a_process_whose_peer_never_comes_ends_at_sigterm_and_leaves_the_outcome_to_its_launcher(
    images: Path, tmp_path: Path
) -> None:
    """srun sends SIGTERM to the others when one process was killed; they must not call that a stop."""
    run = tmp_path / "run"
    train = start_run(run, images, 2)["train"].directory
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    (alone,) = start_stage(run, "train", 2, ranks=[0])
    while not read_attempts(train):
        assert alone.is_alive()
        time.sleep(0.005)
    alone.terminate()
    assert finish([alone]) == [0]
    assert read_outcome(train) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_signal_to_any_rank_saves_and_stops_all_with_the_code_that_says_go_on(
    world_size: int,
    number: signal.Signals,
    images: Path,
    tmp_path: Path,
    uninterrupted: dict[int, tuple[dict[str, object], dict[str, float]]],
) -> None:
    run = tmp_path / "run"
    placed = start_run(run, images, world_size)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    train = placed["train"].directory
    processes = start_stage(run, "train", world_size)
    wait_for_step(train, 3)
    pid = processes[-1].pid
    assert pid is not None
    os.kill(pid, number)
    codes = finish(processes)
    # Several ranks leave with 0, lest their launcher kill the slower ones; the note says what happened.
    assert codes == ([75] if world_size == 1 else [0] * world_size)
    outcome = read_outcome(train)
    assert outcome is not None
    assert outcome.exit_code == 75
    assert "stopped on request" in outcome.message
    assert not placed["train"].is_done
    run_stage_to_end(run, "train", world_size)
    seal = read_seal(train, "stage")
    assert seal is not None
    expected, _ = uninterrupted[world_size]
    assert {"weights.safetensors": seal.files["weights.safetensors"].sha256}.items() <= expected["train"].items()  # type: ignore[attr-defined]
