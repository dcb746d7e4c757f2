from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.ground.errors import EXIT_USER_ERROR
from pipeline.running.runner import run_stage
from stages import STAGES
from tests.recipes import small_recipe


def test_a_gpu_without_memory_ends_a_stage_with_the_keys_to_set_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def allocate(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 3 MiB "
            "is free. See documentation for Memory Management"
        )

    monkeypatch.setattr("stages.build.allocate", allocate)
    config = small_recipe(tmp_path, model={"name": "senet_nano", "num_classes": 4, "expect": None})
    assert run_stage("build", config, tmp_path, STAGES) == EXIT_USER_ERROR
    assert capsys.readouterr().err == (
        "build: CUDA out of memory. Tried to allocate 20.00 MiB. Set a smaller train.max_micro_batch or, in the "
        "evaluation, evaluate.batch, unless another process takes the memory (nvidia-smi); checkpoints are unharmed\n"
    )
