"""A small network of each family through all stages: stopped by a crash, resumed, frozen, evaluated, and exchanged."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import Config
from pipeline.engines.native import NativeEngine
from pipeline.ground.errors import EXIT_DONE
from pipeline.interop.exporting import export_weights
from pipeline.interop.importing import import_weights
from pipeline.models.claims import meta_model
from pipeline.models.weights import load_tensors, read_weights
from pipeline.networks.registry import NETWORKS
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from pipeline.store.weight_header import read_metadata
from stages import STAGES
from tests.data.indexing import write_pictures
from tests.recipes import small_recipe

pytestmark = pytest.mark.processes

SMALL = [name for name in NETWORKS if name.startswith("se_") and name.endswith("_nano")]
STEPS_BEFORE_THE_CRASH = 3


def recipe(images: Path, name: str) -> Config:
    size = NETWORKS[name].image_size_px
    plan = {"name": "center", "crops": [{"resize_px": size, "crop_px": size}]}
    return small_recipe(
        images,
        data={"val_fraction": 0.3},
        model={"name": name},
        checkpoint={"every_steps": 2},
        optim={"lr": 0.01},
        schedule={"drop_epochs": []},
        train={"epochs": 4, "frozen_epochs": 1, "image_size_px": size, "validation": plan},
        evaluate={"plans": [plan]},
        report={"activations": True},
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for label in range(4):
        write_pictures(folder / "train" / f"class{label}", 12)
    return folder


def run(config: Config, folder: Path, *names: str) -> None:
    for name in place_stages(config, folder, STAGES):
        if not names or name in names:
            assert run_stage(name, config, folder, STAGES) == EXIT_DONE, name


@pytest.mark.parametrize("name", SMALL)
def test_a_family_passes_all_stages_and_a_crash_leaves_no_trace(
    name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(images, name)
    run(config, tmp_path / "whole")
    weights = crashed_and_resumed(config, tmp_path, monkeypatch)
    assert read_metadata(weights)["model"] == name
    export_and_import(weights, config, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").is_file()),
    reason="torch.compile needs g++ and Python's headers on a CPU",
)
def test_a_crash_leaves_no_trace_in_a_compiled_training(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the compiler's own kernels, and random weights of branches."""
    config = recipe(images, "se_shake_shake_nano")
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"compile": True})})
    run(config, tmp_path / "whole", "prepare", "build", "train", "freeze_bn")
    crashed_and_resumed(config, tmp_path, monkeypatch)


def crashed_and_resumed(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train in `crashed` with a crash, and compare with `whole`, where there was none. Returns the last weights."""
    run(config, folder / "crashed", "prepare", "build")
    torch._dynamo.reset()
    with monkeypatch.context() as patch:
        patch.setattr(NativeEngine, "step", failing_after(STEPS_BEFORE_THE_CRASH))
        assert run_stage("train", config, folder / "crashed", STAGES) != EXIT_DONE
    torch._dynamo.reset()
    run(config, folder / "crashed", "train", "freeze_bn")
    for stage in ("train", "freeze_bn"):
        whole, crashed = (
            place_stages(config, folder / which, STAGES)[stage].directory / "weights.safetensors"
            for which in ("whole", "crashed")
        )
        assert whole.read_bytes() == crashed.read_bytes(), stage
    return whole


def export_and_import(weights: Path, config: Config, folder: Path) -> None:
    """As a .pth of this project and back; and as an ONNX graph, which gives the same scores."""
    torch.save(read_weights(weights), folder / "w.pth")
    imported = import_weights(folder / "w.pth", folder / "back.safetensors", "ours")
    assert imported.network.name == config.model.name
    before, after = read_weights(weights), read_weights(folder / "back.safetensors")
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
    runtime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_weights(weights, folder / "w.onnx", "onnx")
    session = runtime.InferenceSession(folder / "w.onnx", providers=["CPUExecutionProvider"])
    size = config.train.image_size_px
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    model = meta_model(config.model, 4)
    load_tensors(model, before, "w")
    with torch.inference_mode():
        expected = model.eval()(pixels).numpy()
    (found,) = session.run(None, {"images": pixels.numpy()})
    assert np.abs(found - expected).max() < 1e-4 * max(1.0, float(np.abs(expected).max()))


def failing_after(steps: int) -> Any:
    taken = 0
    step = NativeEngine.step

    def failing(engine: NativeEngine, learning_rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise RuntimeError("a crash")
        step(engine, learning_rate)

    return failing
