"""The survey's parts on the CPU with the small network: they are for GPUs, but what they do is the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from pipeline.bench.survey import clock, network
from pipeline.bench.survey.clock import Deadline
from pipeline.bench.survey.convolution import merge_groups, survey_convolutions
from pipeline.bench.survey.network import both_networks, survey_compiled
from pipeline.bench.survey.run import survey_gpu, survey_parts
from pipeline.bench.survey.scope import Scope
from pipeline.ground.errors import UserError
from tests.conftest import REPOSITORY

SMALL = Scope(
    torch.device("cpu"),
    model="senet_nano",
    num_classes=10,
    image_size_px=32,
    kernel_batch=1,
    batches=(2, 1),
    precisions=("float32",),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short groups; and compiling is taken to need more time than there is."""
    monkeypatch.setattr(clock, "_GROUP_SECONDS", 1e-4)
    monkeypatch.setattr(network, "_COMPILATION_SECONDS", 1e9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="survey: measures a CUDA device, and this machine shows none"):
        survey_gpu(tmp_path / "survey.json", 1)
    assert list(tmp_path.iterdir()) == []


def test_every_part_leaves_its_rows(tmp_path):
    out = tmp_path / "survey.json"
    survey_parts(SMALL, both_networks(SMALL), {"parts": {}}, out, 1e6)
    parts = json.loads(out.read_text())["parts"]
    # 4 shapes x 2 layouts x 2 ways to group; 3 stages x 2 layouts x with and without cuDNN; 2 layouts x 2 batches
    counts = {name: len(rows) for name, rows in parts.items()}
    kernels = counts.pop("kernels of the best")
    assert counts == {
        "grouped convolutions": 16,
        "batch norms": 12,
        "sgd": 3,
        "eager steps": 4,
        "CUDA graph": 1,
        "compiled steps": 0,
    }
    assert kernels > 10
    assert parts["grouped convolutions"][0]["weight gradient us"]["median"] > 0
    assert {row["way"] for row in parts["eager steps"]} == {"eager NCHW float32", "eager NHWC float32"}
    assert all(row["images/s"] > 0 for row in parts["eager steps"])


def test_what_fails_is_a_row_that_says_so(tmp_path):
    broken = both_networks(SMALL)
    broken["ours"].last_linear = torch.nn.Linear(7, 10)
    out = tmp_path / "survey.json"
    survey_parts(SMALL, broken, {"parts": {}}, out, 1e6)
    parts = json.loads(out.read_text())["parts"]
    for row, batch in zip(parts["eager steps"], (2, 2, 1, 1), strict=True):
        assert f"mat1 and mat2 shapes cannot be multiplied ({batch}x256 and 7x10)" in row["error"]
    assert parts["kernels of the best"] == []


def test_a_survey_that_is_cut_off_leaves_what_it_has(tmp_path):
    out = tmp_path / "survey.json"
    networks = both_networks(SMALL)

    class CutOff(dict):
        def items(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey_parts(SMALL, CutOff(networks), {"parts": {}}, out, 1e6)
    assert list(json.loads(out.read_text())["parts"]) == ["grouped convolutions", "batch norms", "sgd"]


def test_parts_whose_time_is_over_begin_nothing():
    over = Deadline(0)
    assert list(survey_convolutions(SMALL, over)) == []
    assert list(survey_compiled(SMALL, both_networks(SMALL), over)) == []


@pytest.mark.parametrize("inputs", [4, 8, 32])
def test_merged_groups_compute_the_same_convolution(inputs):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 32, 9, 9, generator=generator)
    weight = torch.randn(64, 2, 3, 3, generator=generator)
    dense, groups = merge_groups(weight, 16, inputs)
    assert (dense.shape, groups) == ((64, inputs, 3, 3), 32 // inputs)
    torch.testing.assert_close(
        F.conv2d(images, dense, stride=2, padding=1, groups=groups),
        F.conv2d(images, weight, stride=2, padding=1, groups=16),
    )


def test_it_needs_none_of_the_packages_that_a_gpu_machine_may_lack():
    code = (
        "import sys\n"
        "for name in ('pydantic', 'nvidia.dali', 'wandb', 'rich', 'ruamel', 'safetensors', 'PIL', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "import pipeline.bench.__main__, pipeline.bench.survey.run"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
