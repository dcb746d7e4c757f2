from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.store import file as store_file
from pipeline.training.background_writer import BackgroundWriter, NotFinite
from pipeline.training.checkpoint import CheckpointStore, Saved, read_checkpoint, verify_checkpoint
from pipeline.training.checkpoint_seal import FILES
from pipeline.training.state import TrainingState
from tests.processes import finish, fork_context
from tests.training.small_trainer import small_trainer
from tests.training.states import assert_same, small_state


class HeldStore(CheckpointStore):
    """A real store whose disk is as slow as a test wants it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, keep_last=2, keep_best=True)
        self.may_write = threading.Event()
        self.is_asked = threading.Event()

    def save(self, state: TrainingState, best_step: int | None) -> Saved:
        self.is_asked.set()
        assert self.may_write.wait(60)
        return super().save(state, best_step)


def test_what_is_written_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "checkpoints")
    writer = BackgroundWriter(store)
    live, before = small_state(3), small_state(3)
    writer.start(live, best_step=None)
    # Training goes on: everything that may change does.
    for tensor in (*live.model.values(), *live.optimizer.tensors.values()):
        tensor.add_(1)
    assert store.is_asked.wait(60)
    assert writer.poll() is None
    assert not store.directory.exists()
    store.may_write.set()
    saved = writer.wait()
    assert saved is not None
    assert (saved.global_step, saved.path.name) == (3, "step-00000003")
    assert_same(read_checkpoint(saved.path), before)
    assert writer.wait() is None
    assert writer.poll() is None
    writer.close()


def test_the_files_are_those_of_a_save_that_waits(tmp_path: Path) -> None:
    """Channels-last tensors included, since their copy is laid out anew."""
    first = small_state(5)
    writer = BackgroundWriter(CheckpointStore(tmp_path / "background", 2, True))
    writer.start(first, best_step=None)
    writer.close()
    CheckpointStore(tmp_path / "waiting", 2, True).save(first, best_step=None)
    background, waiting = tmp_path / "background" / "step-00000005", tmp_path / "waiting" / "step-00000005"
    for name in FILES:
        assert (background / name).read_bytes() == (waiting / name).read_bytes(), name


def test_the_next_checkpoint_does_not_disturb_the_one_before(tmp_path: Path) -> None:
    """The memory of the copies is used again, also where a tensor's shape or the set of tensors has changed."""
    writer = BackgroundWriter(CheckpointStore(tmp_path / "checkpoints", 3, False))
    steps = [small_state(step) for step in (1, 2, 3)]
    steps[1].model["grown"] = torch.ones(3)
    steps[2].model["grown"] = torch.ones(4)
    for one in steps:
        writer.start(one, best_step=None)
        assert writer.wait() is not None
    writer.close()
    for one in steps:
        assert_same(read_checkpoint(tmp_path / "checkpoints" / f"step-{one.global_step:08d}"), one)


class Operations(TorchDispatchMode):
    """Notes the tensor operations of this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def test_where_it_was_prepared_the_loop_waits_for_nothing_but_the_copying(tmp_path: Path) -> None:
    """From the first checkpoint on, whatever the order in which an engine names its momentum."""

    def backwards(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(reversed(list(tensors.items())))

    writer = BackgroundWriter(CheckpointStore(tmp_path / "checkpoints", 2, False))
    writer.prepare(backwards(small_state(0).model), backwards(small_state(0).optimizer.tensors))
    for step in (1, 2):
        one = small_state(step)
        with Operations() as operations:
            writer.start(one, best_step=None)
        assert operations.names == {"aten.detach", "aten.copy_"}
        saved = writer.wait()
        assert saved is not None
        assert torch.equal(read_checkpoint(saved.path).model["layer.weight"], one.model["layer.weight"])
    writer.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_not_written_and_the_earlier_checkpoint_stays_the_newest(
    value: float, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", 1, False)
    writer = BackgroundWriter(store)
    writer.start(small_state(1), best_step=None)
    good = writer.wait()
    assert good is not None
    bad = small_state(2)
    bad.model["layer.weight"][7, 3] = value
    writer.start(bad, best_step=None)
    bad.model["layer.weight"].zero_()  # what counts is what was copied
    with pytest.raises(NotFinite, match=r"^weights became NaN or infinite in step 2$"):
        writer.wait()
    assert [path.name for path in store.directory.iterdir()] == ["step-00000001"]
    assert store.newest(lambda text: pytest.fail(text)) == good.path
    writer.start(small_state(3), best_step=None)
    assert writer.wait() is not None
    writer.close()


def test_closing_lets_the_checkpoint_in_the_making_be_finished(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "checkpoints")
    writer = BackgroundWriter(store)
    writer.start(small_state(4), best_step=None)
    threading.Thread(target=store.may_write.set).start()
    writer.close()
    verify_checkpoint(store.directory / "step-00000004")


def test_a_failure_is_told_once_by_whoever_asks_first_and_the_next_save_works(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer = BackgroundWriter(CheckpointStore(tmp_path / "checkpoints", 2, True))
    writer.start(small_state(1), best_step=None)
    with pytest.raises(FileExistsError):
        writer.wait()
    assert writer.poll() is None
    (tmp_path / "checkpoints").unlink()
    writer.start(small_state(2), best_step=None)
    saved = writer.wait()
    assert saved is not None
    verify_checkpoint(saved.path)
    writer.close()


def limit_files(num_bytes: int) -> None:
    """Stands for a full disk: the same error at the same place."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def write_on_a_full_disk(directory: Path, told: Path) -> None:
    """Step 1 to the end, and step 2 where it does not fit."""
    writer = BackgroundWriter(CheckpointStore(directory, 2, True))
    writer.start(small_state(1), None)
    writer.wait()
    limit_files(1000)
    writer.start(small_state(2), None)
    try:
        writer.wait()
    except OSError as error:
        told.write_text(f"{error.errno} {error.filename}")


def write_until_killed(directory: Path, at_flush: int) -> None:
    """Step 1 to the end, and step 2 until the `at_flush`-th file or folder is about to be flushed to disk."""
    writer = BackgroundWriter(CheckpointStore(directory, 2, True))
    writer.start(small_state(1), None)
    writer.wait()
    flushes, flush_file = itertools.count(1), store_file.flush_file

    def killed_at(path: Path) -> None:
        if next(flushes) == at_flush:
            os.kill(os.getpid(), signal.SIGKILL)
        flush_file(path)

    store_file.flush_file = killed_at
    writer.start(small_state(2), None)
    writer.close()


def run_apart(target: Callable[..., object], *arguments: object) -> int | None:
    """In a process of its own; returns its exit code."""
    process = fork_context().Process(target=target, args=arguments)
    process.start()
    return finish([process])[0]


def test_a_full_disk_is_an_error_with_the_path_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    run_apart(write_on_a_full_disk, tmp_path / "c", tmp_path / "told")
    number, path = (tmp_path / "told").read_text().split()
    assert int(number) == errno.EFBIG
    assert path.startswith(str(tmp_path / "c"))
    assert path.endswith("step-00000002/model.safetensors")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001"]
    verify_checkpoint(tmp_path / "c" / "step-00000001")


@pytest.mark.parametrize(("at_flush", "steps"), [(1, [1]), (6, [1]), (13, [1]), (14, [1, 2])])
def test_killed_while_it_writes_it_leaves_whole_checkpoints_only(
    at_flush: int, steps: list[int], tmp_path: Path
) -> None:
    """At the first file, in the middle, before the new one has its name, and when that is yet to be flushed."""
    assert run_apart(write_until_killed, tmp_path / "c", at_flush) == -signal.SIGKILL
    paths = sorted((tmp_path / "c").glob("step-*"))
    assert [path.name for path in paths] == [f"step-{step:08d}" for step in steps]
    for path in paths:
        verify_checkpoint(path)
    assert CheckpointStore(tmp_path / "c", 2, True).newest(lambda text: pytest.fail(text)) == paths[-1]


def train_on_a_full_disk(folder: Path, told: Path) -> None:
    trainer = small_trainer(folder, last_step=4, checkpoint={"every_steps": 1})
    limit_files(20_000)
    try:
        trainer.run()
    except OSError as error:
        told.write_text(f"{error.errno} {error.filename}")


def test_training_ends_with_the_error_of_a_checkpoint_that_could_not_be_written(tmp_path: Path) -> None:
    run_apart(train_on_a_full_disk, tmp_path, tmp_path / "told")
    number, path = (tmp_path / "told").read_text().split()
    assert int(number) == errno.EFBIG
    assert path.endswith("step-00000001/model.safetensors")
    assert list((tmp_path / "checkpoints").iterdir()) == []
