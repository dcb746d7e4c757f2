from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.bench import step
from pipeline.bench.roofline import Peaks
from pipeline.bench.training_step import Task

pytestmark = pytest.mark.slow


def test_a_way_that_fails_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison for a GPU, on the CPU: it does not wait for any, and no compiler takes the network. Of more images
    than are tried with CUDA graphs."""

    def no_compiler(network: nn.Module, *settings: str) -> nn.Module:
        raise RuntimeError("no compiler takes this\nand why is a long story")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(step, "compile_whole", no_compiler)
    monkeypatch.setattr("pipeline.engines.autocast.compile_network", no_compiler)
    monkeypatch.setitem(step._STEPS_PER_ROUND, "senet_nano", 1)
    task = Task("senet_nano", 10, 32, 33, torch.device("cpu"))
    compared = step._compare_on_gpu(task, Peaks(1e12, 1e11), rounds=1, progress=lambda line: None)
    left_out = compared.title.splitlines()[1:]
    assert "ours, compiled NHWC bfloat16, is left out: no compiler takes this" in left_out
    assert len(left_out) == 8
    measured = [measurement.name for measurement in compared.measurements]
    assert len(measured) == 8
    assert {"ours, eager NHWC float16", "the same in a plain loop, eager NCHW bfloat16"} <= set(measured)
