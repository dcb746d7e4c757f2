from __future__ import annotations

import itertools
import json
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

from pipeline.config.reader import read_run_config, write_run_config
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.running.outcome import read_outcome
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from pipeline.store import file as store_file
from pipeline.training.background_writer import BackgroundWriter, NotFinite
from pipeline.training.checkpoint import LATEST, Checkpoint, CheckpointStore, Saved, read_checkpoint, verify_checkpoint
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import finish, fork_context, run_stage_to_end
from tests.recipes import small_recipe
from tests.training.test_checkpoint import checkpoint


class HeldStore(CheckpointStore):
    """A real store whose disk is as slow as a test wants it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, keep_last=2, keep_best=True)
        self.may_write = threading.Event()
        self.is_asked = threading.Event()

    def save(self, checkpoint: Checkpoint, best_step: int | None) -> Saved:
        self.is_asked.set()
        assert self.may_write.wait(60)
        return super().save(checkpoint, best_step)


def test_what_is_written_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "checkpoints")
    writer = BackgroundWriter(store)
    live, before = checkpoint(3), checkpoint(3)
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
    found = read_checkpoint(saved.path)
    for expected, read in ((before.model, found.model), (before.optimizer.tensors, found.optimizer.tensors)):
        assert expected.keys() == read.keys()
        for name in expected:
            assert torch.equal(expected[name], read[name]), name
    assert writer.wait() is None
    assert writer.poll() is None
    writer.close()


def test_the_files_are_those_of_a_save_that_waits(tmp_path: Path) -> None:
    """Channels-last tensors included, since their copy is laid out anew."""
    first = checkpoint(5)
    first.model["conv"] = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)  # type: ignore[index]
    writer = BackgroundWriter(CheckpointStore(tmp_path / "aside", 2, True))
    writer.start(first, best_step=None)
    writer.close()
    CheckpointStore(tmp_path / "waiting", 2, True).save(first, best_step=None)
    aside, waiting = tmp_path / "aside" / "step-00000005", tmp_path / "waiting" / "step-00000005"
    assert sorted(path.name for path in aside.iterdir()) == sorted(path.name for path in waiting.iterdir())
    for path in aside.iterdir():
        assert path.read_bytes() == (waiting / path.name).read_bytes(), path.name


def test_the_next_checkpoint_does_not_disturb_the_one_before(tmp_path: Path) -> None:
    """The memory of the copies is used again, also where a tensor's shape or the set of tensors has changed."""
    writer = BackgroundWriter(CheckpointStore(tmp_path / "checkpoints", 3, False))
    steps = [checkpoint(step) for step in (1, 2, 3)]
    steps[1].model["grown"] = torch.ones(3)  # type: ignore[index]
    steps[2].model["grown"] = torch.ones(4)  # type: ignore[index]
    for one in steps:
        writer.start(one, best_step=None)
        assert writer.wait() is not None
    writer.close()
    for one in steps:
        found = read_checkpoint(tmp_path / "checkpoints" / f"step-{one.global_step:08d}")
        assert found.model.keys() == one.model.keys()
        for name, tensor in one.model.items():
            assert torch.equal(found.model[name], tensor), name


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
        return dict(reversed(tensors.items()))

    writer = BackgroundWriter(CheckpointStore(tmp_path / "checkpoints", 2, False))
    writer.prepare(backwards(checkpoint(0).model), backwards(checkpoint(0).optimizer.tensors))
    for step in (1, 2):
        one = checkpoint(step)
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
    writer.start(checkpoint(1), best_step=None)
    good = writer.wait()
    assert good is not None
    bad = checkpoint(2)
    bad.model["layer.weight"][7, 3] = value
    writer.start(bad, best_step=None)
    bad.model["layer.weight"].zero_()  # what counts is what was copied
    with pytest.raises(NotFinite, match=r"^weights became NaN or infinite in step 2$"):
        writer.wait()
    assert sorted(path.name for path in store.directory.iterdir()) == [LATEST, "step-00000001"]
    assert json.loads((store.directory / LATEST).read_text())["checkpoint"] == "step-00000001"
    assert store.newest(lambda text: pytest.fail(text)) == good.path
    writer.start(checkpoint(3), best_step=None)
    assert writer.wait() is not None
    writer.close()


def test_closing_lets_the_checkpoint_in_the_making_be_finished(tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "checkpoints")
    writer = BackgroundWriter(store)
    writer.start(checkpoint(4), best_step=None)
    threading.Thread(target=store.may_write.set).start()
    writer.close()
    verify_checkpoint(store.directory / "step-00000004")


def test_a_failure_is_told_once_by_whoever_asks_first_and_the_next_save_works(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer = BackgroundWriter(CheckpointStore(tmp_path / "checkpoints", 2, True))
    writer.start(checkpoint(1), best_step=None)
    with pytest.raises(FileExistsError):
        writer.wait()
    assert writer.poll() is None
    (tmp_path / "checkpoints").unlink()
    writer.start(checkpoint(2), best_step=None)
    saved = writer.wait()
    assert saved is not None
    verify_checkpoint(saved.path)
    writer.close()


def write_on_a_full_disk(directory: Path, outcome: Path) -> None:
    """Step 1 to the end and step 2 under a limit on the size of files, which stands for a full disk."""
    writer = BackgroundWriter(CheckpointStore(directory, 2, True))
    writer.start(checkpoint(1), None)
    writer.wait()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    writer.start(checkpoint(2), None)
    try:
        writer.wait()
    except UserError as error:
        outcome.write_text(str(error)[:900])


def write_until_killed(directory: Path, at_flush: int) -> None:
    """Step 1 to the end, and step 2 until the `at_flush`-th file or folder is about to be flushed to disk."""
    writer = BackgroundWriter(CheckpointStore(directory, 2, True))
    writer.start(checkpoint(1), None)
    writer.wait()
    flushes, flush_file = itertools.count(1), store_file.flush_file

    def killed_at(path: Path) -> None:
        if next(flushes) == at_flush:
            os.kill(os.getpid(), signal.SIGKILL)
        flush_file(path)

    store_file.flush_file = killed_at
    writer.start(checkpoint(2), None)
    writer.close()


def run_apart(target: Callable[..., object], *arguments: object) -> int | None:
    """In a process of its own; returns its exit code."""
    process = fork_context().Process(target=target, args=arguments)
    process.start()
    return finish([process])[0]


def test_a_full_disk_is_the_users_error_that_a_waiting_save_tells(tmp_path: Path) -> None:
    run_apart(write_on_a_full_disk, tmp_path / "c", tmp_path / "outcome")
    outcome = (tmp_path / "outcome").read_text()
    assert "no space left to write it" in outcome
    assert "what was complete before is unharmed" in outcome
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [LATEST, "step-00000001"]
    verify_checkpoint(tmp_path / "c" / "step-00000001")


@pytest.mark.parametrize(("at_flush", "steps"), [(1, [1]), (6, [1]), (13, [1]), (14, [1, 2])])
def test_killed_while_it_writes_it_leaves_whole_checkpoints_only(
    at_flush: int, steps: list[int], tmp_path: Path
) -> None:
    """At the first file, in the middle, before the new one has its name and when `latest.json` has yet to move."""
    assert run_apart(write_until_killed, tmp_path / "c", at_flush) == -signal.SIGKILL
    paths = sorted((tmp_path / "c").glob("step-*"))
    assert [path.name for path in paths] == [f"step-{step:08d}" for step in steps]
    for path in paths:
        verify_checkpoint(path)
    assert json.loads((tmp_path / "c" / LATEST).read_text())["checkpoint"] == "step-00000001"
    assert CheckpointStore(tmp_path / "c", 2, True).newest(lambda text: pytest.fail(text)) == paths[-1]


def train_on_a_full_disk(run: Path) -> None:
    """The train stage on a disk that takes its record, but not a checkpoint."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    os._exit(run_stage("train", read_run_config(run), run))


def test_training_ends_as_the_users_error_when_a_checkpoint_could_not_be_written(tmp_path: Path) -> None:
    images = write_image_folders(tmp_path / "images", num_classes=4, train_per_class=12, val_per_class=2)
    config = small_recipe(images, checkpoint={"every_steps": 1})
    run = tmp_path / "run"
    run.mkdir()
    write_run_config(run, config)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    assert run_apart(train_on_a_full_disk, run) == EXIT_USER_ERROR
    train = place_stages(config, run, STAGES)["train"].directory
    outcome = read_outcome(train)
    assert outcome is not None
    assert "step-00000001/model.safetensors: no space left to write it" in outcome.message
    assert list((train / "checkpoints").iterdir()) == []
