"""What a training step may not do on a real GPU. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.throughput import Throughput
from tests.training.small_trainer import small_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("decode", ["cpu", "gpu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_no_step_makes_the_host_wait_for_the_gpu(precision: str, decode: str, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, 6, execution={"precision": precision}, loader={"decode": decode})
    batches, throughput = iter(trainer._loader), Throughput(24)

    def take_steps(count: int) -> None:
        for _ in range(count):
            trainer._train_step(batches, throughput)
            trainer._global_step += 1

    # The first ones allocate and choose algorithms, for which the host has to wait.
    take_steps(2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_steps(3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        trainer._loader.close()


def test_a_checkpoint_written_in_the_background_holds_the_weights_of_its_own_step(tmp_path: Path) -> None:
    """The copies to pinned memory are queued before the next steps change what they read."""
    trainer = small_trainer(tmp_path, 4, checkpoint={"every_steps": 1, "keep_last": 9})
    taken, save = {}, trainer._save

    def saving() -> None:
        model = trainer._engine.model.state_dict()
        taken[trainer._global_step] = {name: tensor.clone() for name, tensor in model.items()}
        save()

    trainer._save = saving  # type: ignore[method-assign]
    trainer.run()
    assert sorted(taken) == [1, 2, 3, 4]
    for step, expected in taken.items():
        found = read_checkpoint(tmp_path / "checkpoints" / f"step-{step:08d}").model
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor.cpu()), (step, name)
