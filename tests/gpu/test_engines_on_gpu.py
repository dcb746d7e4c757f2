"""Several processes, DeepSpeed and CUDA graphs on real GPUs. Each test is skipped where there are too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.reader import write_run_config
from pipeline.models.weights import read_weights
from pipeline.running.stage import place_stages
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import run_stage_to_end
from tests.recipes import small_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=20, val_per_class=5)


def train(run: Path, images: Path, processes: int, **sections: Any) -> Path:
    """Both training stages; returns the directory of the second."""
    config = small_recipe(images, **sections)
    write_run_config(run, config)
    for stage, world_size in {"prepare": 1, "build": 1, "train": processes, "freeze_bn": processes}.items():
        run_stage_to_end(run, stage, world_size)
    placed = place_stages(config, run, STAGES)
    losses = [event["loss"] for event in read_events(placed["train"].directory, "train")]
    assert losses[-1] < losses[0]
    return placed["freeze_bn"].directory


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16", "float16"])
@pytest.mark.parametrize("zero_stage", [pytest.param(0, marks=pytest.mark.slow), 1, 2])
def test_deepspeed_learns_in_every_precision(zero_stage: int, precision: str, images: Path, tmp_path: Path) -> None:
    sections = {"engine": "deepspeed", "deepspeed": {"zero_stage": zero_stage}, "execution": {"precision": precision}}
    directory = train(tmp_path / "run", images, 1, **sections)
    assert all(tensor.isfinite().all() for tensor in read_weights(directory / "weights.safetensors").values())


@pytest.mark.parametrize(
    "execution",
    [{"precision": "bfloat16"}, pytest.param({"precision": "float16", "compile": True}, marks=pytest.mark.slow)],
)
def test_cuda_graphs_learn_with_moving_and_with_frozen_batch_norms(
    execution: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", images, 1, native={"cuda_graphs": True}, execution=execution)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize(
    "sections",
    [
        {"execution": {"sync_bn": True}},
        {"execution": {"gradient_compression": "bfloat16"}},
        {"native": {"cuda_graphs": True}, "execution": {"precision": "bfloat16"}},
        {"engine": "deepspeed", "deepspeed": {"zero_stage": 2}, "execution": {"gradient_compression": "bfloat16"}},
    ],
    ids=["sync_bn", "native-compressed", "native-graphs", "zero2-compressed"],
)
def test_two_gpus_learn_together(sections: dict[str, Any], images: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", images, 2, **sections)
