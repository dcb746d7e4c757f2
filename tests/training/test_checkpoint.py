from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.engines.engine import OptimizerState
from pipeline.ground.errors import UserError
from pipeline.training.checkpoint import (
    LATEST,
    BrokenCheckpoint,
    Checkpoint,
    CheckpointStore,
    read_checkpoint,
    verify_checkpoint,
)


def checkpoint(step: int) -> Checkpoint:
    torch.manual_seed(step)
    return Checkpoint(
        global_step=step,
        model={"layer.weight": torch.randn(20, 30), "layer.count": torch.tensor(step)},
        optimizer=OptimizerState({"layer.weight": torch.randn(20, 30)}, {"scaler": {}}),
        state={"events_position": 17, "best": None},
    )


def store(tmp_path: Path, keep_last: int = 2, keep_best: bool = True) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last, keep_best)


def no_warning(text: str) -> None:
    pytest.fail(f"unexpected warning: {text}")


def test_what_is_read_is_bit_for_bit_what_was_saved(tmp_path: Path) -> None:
    saved = checkpoint(3)
    # A channels-last weight is stored like any other.
    saved.model["conv"] = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)  # type: ignore[index]
    path = store(tmp_path).save(saved, best_step=None).path
    read = read_checkpoint(path)
    assert read.global_step == 3
    assert read.state == saved.state
    assert read.optimizer.values == {"scaler": {}}
    for expected, found in ((saved.model, read.model), (saved.optimizer.tensors, read.optimizer.tensors)):
        assert expected.keys() == found.keys()
        for name in expected:
            assert torch.equal(expected[name], found[name])


def test_newest_is_used_and_latest_names_it(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    assert checkpoints.newest(no_warning) is None
    for step in (5, 10):
        checkpoints.save(checkpoint(step), best_step=None)
    newest = checkpoints.newest(no_warning)
    assert newest is not None
    assert newest.name == "step-00000010"
    assert json.loads((newest.parent / LATEST).read_text())["checkpoint"] == newest.name


def test_keeps_the_last_k_and_the_best(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep_last=2)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(checkpoint(step), best_step=2 if step >= 2 else 1)
    names = sorted(path.name for path in checkpoints.directory.glob("step-*"))
    assert names == ["step-00000002", "step-00000004", "step-00000005"]


def test_without_keep_best_only_the_last_k_stay(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep_last=1, keep_best=False)
    for step in (1, 2, 3):
        checkpoints.save(checkpoint(step), best_step=1)
    assert [path.name for path in checkpoints.directory.glob("step-*")] == ["step-00000003"]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_broken_checkpoint_that_was_passed_over_takes_no_place_of_those_kept(tmp_path: Path, keep_last: int) -> None:
    checkpoints = store(tmp_path, keep_last, keep_best=False)
    checkpoints.save(checkpoint(10), best_step=None)
    good = {path.name: path for path in checkpoints.directory.glob("step-*")}
    for name in ("step-00000020", "step-00000030"):
        shutil.copytree(good["step-00000010"], checkpoints.directory / name)
        damage(checkpoints.directory / name / "model.safetensors", "cut short")
    newest = checkpoints.newest(lambda text: None)
    assert newest == good["step-00000010"]
    checkpoints.save(checkpoint(15), best_step=None)
    names = sorted(path.name for path in checkpoints.directory.glob("step-*"))
    assert names == ["step-00000010", "step-00000015"][-keep_last:]


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "one bit flipped":
        content[len(content) // 2] ^= 0x10
    elif how == "cut short":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    path.unlink()
    if how != "missing":
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["one bit flipped", "cut short", "empty", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_previous_checkpoint_is_used(tmp_path: Path, name: str, how: str) -> None:
    checkpoints = store(tmp_path)
    good = checkpoints.save(checkpoint(1), best_step=None).path
    bad = checkpoints.save(checkpoint(2), best_step=None).path
    damage(bad / name, how)
    if name == "manifest.json" and how == "one bit flipped":
        # Whatever the flipped bit says now, it is not what the files are.
        text = (bad / name).read_text(errors="replace")
        (bad / name).write_text(text.replace('"size": ', '"size": 1'))
    warnings: list[str] = []
    assert checkpoints.newest(warnings.append) == good
    assert len(warnings) == 1
    assert str(bad) in warnings[0]
    with pytest.raises(UserError, match=r"not a whole checkpoint: .*step-00000002"):
        read_checkpoint(bad)


def test_refuses_to_start_over_when_every_checkpoint_is_broken(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    damage(checkpoints.save(checkpoint(1), best_step=None).path / "model.safetensors", "cut short")
    with pytest.raises(
        UserError, match=r"no whole checkpoint is left; delete .*checkpoints to start from the beginning"
    ):
        checkpoints.newest(lambda text: None)


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_are_removed(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    checkpoints.directory.mkdir()
    leftover = checkpoints.directory / ".tmp-999-step-00000007"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest(no_warning) is None
    checkpoints.save(checkpoint(8), best_step=None)
    assert not leftover.exists()


def test_a_step_saved_again_replaces_a_broken_one(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    path = checkpoints.save(checkpoint(4), best_step=None).path
    damage(path / "state.json", "empty")
    checkpoints.save(checkpoint(4), best_step=None)
    verify_checkpoint(path)


def test_a_pickle_in_place_of_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "code-was-run"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    path = store(tmp_path).save(checkpoint(1), best_step=None).path
    content = pickle.dumps(Hostile())
    for name in FILES:
        (path / name).write_bytes(content)
    with pytest.raises(BrokenCheckpoint):
        verify_checkpoint(path)
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert not marker.exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.training.test_checkpoint import checkpoint
from pipeline.ground.errors import UserError
from pipeline.training.checkpoint import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), 2, True)
store.save(checkpoint(1), None)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.save(checkpoint(2), None)
except UserError as error:
    print(error)
"""


def test_a_full_disk_is_named_and_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the same error at the same place, without needing root."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "c"), str(root)], capture_output=True, text=True, cwd=root
    )
    assert "no space left to write it" in done.stdout, done.stderr
    assert "what was complete before is unharmed" in done.stdout
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [LATEST, "step-00000001"]
    verify_checkpoint(tmp_path / "c" / "step-00000001")
