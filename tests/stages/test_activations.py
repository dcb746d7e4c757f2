"""The gates of the blocks: the same bits at any number of processes, and those of hooks in a plain loop."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.config.reader import read_run_config
from pipeline.config.schema import Config
from pipeline.data.loaders import build_plan_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import expand
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.models import create_model
from pipeline.models.weights import load_weights, save_weights
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.evaluation.small_run import (
    CENTER,
    NUM_CLASSES,
    NUM_IMAGES,
    evaluate_directory,
    make_config,
    make_run,
    read_index,
)
from tests.processes import run_stage_to_end

pytestmark = pytest.mark.processes

MEASURE = ("report.activations=true",)
LABELS = ["SE_2_1", "SE_3_1", "SE_3_2", "SE_4_1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and weights that all runs of this file share."""
    return tmp_path_factory.mktemp("activations")


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[int, Path]:
    """The directory of the stage at each of several world sizes."""
    directories = {}
    for world_size in (1, 2, 3, 5):
        run = make_run(folder, f"world-{world_size}")
        run_stage_to_end(run, "activations", world_size, MEASURE)
        directories[world_size] = directory_of(run)
    return directories


def directory_of(run: Path) -> Path:
    return place_stages(read_run_config(run, MEASURE), run, STAGES)["activations"].directory


def hooked_gates(folder: Path, run: Path, config: Config) -> dict[str, npt.NDArray[np.float64]]:
    """The gates of every image, by forward hooks in a plain loop: (images, channels) for each module."""
    index = read_index(run, config)
    model = create_model("senet_nano", NUM_CLASSES).eval()
    load_weights(model, folder / "weights.safetensors")
    found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in model.se_modules()}
    for name, module in model.se_modules().items():
        module.register_forward_hook(lambda _, __, gates, name=name: found[name].append(gates[0, :, 0, 0].numpy()))
    cpu = torch.device("cpu")
    preprocessor = Preprocessor(config.input, config.augmentation, cpu, channels_last=False)
    crops, positions = [planned.crop for planned in expand(CENTER)], np.arange(len(index))
    with contextlib.closing(build_plan_loader(index, positions, crops, 1, config.loader, cpu)) as loader:
        for batch in loader:
            assert isinstance(batch.crops[0], torch.Tensor)
            with torch.inference_mode():
                model(preprocessor.evaluation(batch.crops[0]))
    return {name: np.array(rows, np.float64) for name, rows in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_gates_are_the_same_bits_at_any_world_size(measured: dict[int, Path], world_size: int) -> None:
    for name in ("gates.npz", "gates.json"):
        assert (measured[world_size] / name).read_bytes() == (measured[1] / name).read_bytes()


@pytest.mark.slow
def test_gates_are_those_of_forward_hooks_in_a_plain_loop(folder: Path, measured: dict[int, Path]) -> None:
    config, run = make_config(folder), folder / "world-1"
    labels = read_index(run, config).labels
    arrays, names = np.load(measured[1] / "gates.npz"), json.loads((measured[1] / "gates.json").read_text())
    hooked = hooked_gates(folder, run, config)
    assert [block["label"] for block in names["blocks"]] == LABELS
    assert [block["module"] for block in names["blocks"]] == list(hooked)
    assert [one["images"] for one in names["classes"]] == np.bincount(labels).tolist()
    assert sorted(arrays) == sorted(
        f"{label}/{name}" for label in LABELS for name in ("mean", "std", "mean_of_all", "std_of_all")
    )
    for block in names["blocks"]:
        gates, label = hooked[block["module"]], block["label"]
        assert gates.shape == (NUM_IMAGES, block["channels"])
        for number in range(NUM_CLASSES):
            own = gates[labels == number]
            np.testing.assert_allclose(arrays[f"{label}/mean"][number], own.mean(0), atol=1e-5)
            np.testing.assert_allclose(arrays[f"{label}/std"][number], own.std(0), atol=1e-5)
        np.testing.assert_allclose(arrays[f"{label}/mean_of_all"], gates.mean(0), atol=1e-5)
        np.testing.assert_allclose(arrays[f"{label}/std_of_all"], gates.std(0), atol=1e-5)
        assert block["between_classes"] == pytest.approx(arrays[f"{label}/mean"].std(0).mean(), rel=1e-5)
        assert block["nearly_1_percent"] == pytest.approx(100 * (abs(gates - 1) <= 0.05).mean(), abs=0.02)


@pytest.mark.slow
def test_errors_as_trained_are_those_of_the_evaluation(folder: Path, measured: dict[int, Path]) -> None:
    run = folder / "world-1"
    run_stage_to_end(run, "evaluate")
    results = json.loads((evaluate_directory(run, make_config(folder)) / "results.json").read_text())
    (plan,) = (plan for plan in results["plans"] if plan["name"] == CENTER.name)
    names = json.loads((measured[1] / "gates.json").read_text())
    errors = names["left_out"]["errors"]["as trained"]
    assert errors == {name: plan[name] for name in ("top1_error_percent", "top5_error_percent")}
    assert names["left_out"]["blocks"] == ["SE_4_1"]


def test_gates_that_are_no_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    model = create_model("senet_nano", NUM_CLASSES)
    model.layer2[1].se_module.fc1.weight.data.fill_(3e38)
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), {})
    assert run_stage("activations", read_run_config(run, MEASURE), run, STAGES) == EXIT_USER_ERROR
    assert "the gates of SE_3_2 (layer2.1.se_module) are NaN, infinite or larger than 1: an" in capsys.readouterr().err


def test_a_run_measures_gates_only_if_its_report_shows_them(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for overrides, expected in (
        ((), False),
        (MEASURE, True),
        ((*MEASURE, "model.name=resnet_nano", "evaluate.plans=[10crop]"), False),
        ((*MEASURE, "evaluate.split=test", "data.test=images", "evaluate.plans=[10crop]"), False),
    ):
        assert ("activations" in place_stages(read_run_config(run, overrides), run, STAGES)) is expected, overrides
    told = "report.activations: needs a plan of one crop of each image, not mirrored, in evaluate.plans (given 10crop)"
    with pytest.raises(UserError, match=re.escape(told)):
        read_run_config(run, (*MEASURE, "evaluate.plans=[10crop]"))
