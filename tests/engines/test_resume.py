"""A checkpoint is the same whatever the engine: each goes on from each, and from its own death."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from pipeline.models.weights import read_weights
from pipeline.running.stage import place_stages
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.engines.jobs import Job, JobResults, new_model
from tests.engines.plain_loop import plain_loop
from tests.images import write_image_folders
from tests.processes import finish, run_stage_to_end, start_stage
from tests.recipes import small_recipe

pytestmark = pytest.mark.timeout(600)

ENGINES: dict[str, dict[str, Any]] = {
    "native": {},
    "zero0": {"engine": "deepspeed", "deepspeed": {"zero_stage": 0}},
    "zero1": {"engine": "deepspeed", "deepspeed": {"zero_stage": 1}},
    "zero2": {"engine": "deepspeed", "deepspeed": {"zero_stage": 2}},
}
PAIRS = [(writer, reader) for writer in ENGINES for reader in ENGINES]
NARROW = ("bfloat16", "float16")


def job(name: str, engine: str, precision: str = "float32", **rest: Any) -> Job:
    """Two processes and one micro-batch, so that all engines sum in the same order."""
    execution = {"channels_last": False, "precision": precision}
    return Job(name, {**ENGINES[engine], "train": {"max_micro_batch": 8}, "execution": execution}, **rest)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> JobResults:
    groups = []
    for engine in ENGINES:
        goes_on = [
            job(f"{writer}-{engine}", engine, start=f"first-{writer}", first_step=2, last_step=4) for writer in ENGINES
        ]
        narrow = [job(f"{precision}-{engine}", engine, precision, last_step=2) for precision in NARROW]
        frozen = job(f"frozen-{engine}", engine, last_step=2, is_frozen=True)
        groups += [(2, [job(f"first-{engine}", engine, last_step=2)]), (2, goes_on), (2, [*narrow, frozen])]
    return JobResults(tmp_path_factory.mktemp("jobs"), groups)


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_one_engine_goes_on_from_the_other_as_if_nothing_had_happened(
    results: JobResults, writer: str, reader: str
) -> None:
    """Weights, statistics, momentum and step: the end is that of a plain loop, bit for bit."""
    found = results.of(f"{writer}-{reader}").model
    for key, value in plain_loop(2, 1, steps=4).state_dict().items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("engine", ENGINES)
def test_saved_momentum_is_that_of_the_native_engine(results: JobResults, engine: str) -> None:
    expected = results.of("first-native").optimizer.tensors
    found = results.of(f"first-{engine}").optimizer.tensors
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("engine", ["zero0", "zero1", "zero2"])
def test_narrow_types_give_what_the_native_engine_gives(results: JobResults, engine: str, precision: str) -> None:
    """Weights and gradients stay float32, the loss scale of float16 is a power of two, so nothing differs."""
    expected, found = (results.of(f"{precision}-{name}") for name in ("native", engine))
    for key, value in expected.model.items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(found.model[key], value), key
    assert found.optimizer.values == expected.optimizer.values


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_batch_norms_stay_as_they_are_and_take_no_momentum(results: JobResults, engine: str) -> None:
    start, found = new_model(is_frozen=True), results.of(f"frozen-{engine}")
    learning = dict(start.named_parameters())
    assert found.optimizer.tensors.keys() == learning.keys()
    for key, value in start.state_dict().items():
        assert torch.equal(found.model[key], value) == (key not in learning), key


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=20, val_per_class=5)


def recipe(images: Path, engine: str) -> Config:
    train = {"max_micro_batch": 12}
    return small_recipe(images, train=train, execution={"channels_last": False}, **ENGINES[engine])


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights that the native engine trains when it is left alone."""
    run = tmp_path_factory.mktemp("whole") / "run"
    write_run_config(run, recipe(images, "native"))
    for stage, processes in {"prepare": 1, "build": 1, "train": 2, "freeze_bn": 2}.items():
        run_stage_to_end(run, stage, processes)
    return read_weights(
        place_stages(recipe(images, "native"), run, STAGES)["freeze_bn"].directory / "weights.safetensors"
    )


def test_batch_norms_have_seen_the_training_images_and_no_warm_up(uninterrupted: dict[str, torch.Tensor]) -> None:
    """80 images and a global batch of 24: 4 epochs before the batch norms freeze are 14 steps, one pass each."""
    counters = {int(value) for name, value in uninterrupted.items() if name.endswith("num_batches_tracked")}
    assert counters == {14}


@pytest.mark.faults
@pytest.mark.parametrize(("engine", "last"), [("zero1", "zero2"), ("zero2", "native")])
def test_killed_deepspeed_ends_with_the_bits_of_the_native_engine(
    engine: str, last: str, images: Path, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """Killed while it trains, it goes on from its last checkpoint; the last epochs are another engine's."""
    run = tmp_path / "run"
    write_run_config(run, recipe(images, engine))
    placed = place_stages(recipe(images, engine), run, STAGES)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    processes = start_stage(run, "train", 2)
    end = time.monotonic() + 120
    while not any(event["global_step"] >= 6 for event in read_events(placed["train"].directory, "train")):
        assert time.monotonic() < end, "no step 6"
        time.sleep(0.005)
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    finish(processes)
    assert not placed["train"].is_done
    run_stage_to_end(run, "train", 2)
    write_run_config(run, recipe(images, last))
    run_stage_to_end(run, "freeze_bn", 2)
    found = read_weights(placed["freeze_bn"].directory / "weights.safetensors")
    for key, value in uninterrupted.items():
        assert torch.equal(found[key], value), key
