"""The stages on a real GPU: autocast, layouts, compilation. Skipped without one."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from pipeline.config.reader import write_run_config
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.seal import read_seal
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import finish, run_stage_to_end, start_stage
from tests.recipes import small_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=20, val_per_class=5)


def start_run(run: Path, images: Path, **sections: object) -> dict[str, PlacedStage]:
    run.mkdir()
    config = small_recipe(images, **sections)
    write_run_config(run, config)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    return place_stages(config, run, STAGES)


@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compile"])
@pytest.mark.parametrize("channels_last", [pytest.param(False, marks=pytest.mark.slow), True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_way_to_execute_learns_and_keeps_frozen_batch_norms(
    precision: str, channels_last: bool, compile_: bool, images: Path, tmp_path: Path
) -> None:
    execution = {"precision": precision, "channels_last": channels_last, "compile": compile_}
    placed = start_run(tmp_path / "run", images, execution=execution)
    for stage in ("train", "freeze_bn", "evaluate"):
        finish_codes = finish(start_stage(tmp_path / "run", stage), timeout=300)
        assert finish_codes == [0], stage
    losses = [event["loss"] for event in read_events(placed["train"].directory, "train")]
    assert losses[-1] < losses[0]
    seal = read_seal(placed["evaluate"].directory, "stage")
    assert seal is not None
    # Four colours under noise: chance is 75 %.
    assert seal.about["metrics"]["center32"]["top1_error_percent"] <= 25
    assert (tmp_path / "run" / "compiled").is_dir() == compile_


def test_killed_on_the_gpu_goes_on_without_a_lost_or_doubled_step(images: Path, tmp_path: Path) -> None:
    placed = start_run(tmp_path / "run", images)
    directory = placed["train"].directory
    (process,) = start_stage(tmp_path / "run", "train")
    deadline = time.monotonic() + 120
    while not any(event["global_step"] >= 6 for event in read_events(directory, "train")):
        assert time.monotonic() < deadline
        assert process.exitcode is None
        time.sleep(0.005)
    process.kill()
    assert finish([process]) == [-signal.SIGKILL]
    run_stage_to_end(tmp_path / "run", "train")
    assert [event["global_step"] for event in read_events(directory, "train")] == [1, 3, 6, 9, 12, 14]
