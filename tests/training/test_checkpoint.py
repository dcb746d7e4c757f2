from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.ground.errors import UserError
from pipeline.store.file import sha256_of
from pipeline.store.seal import SEAL, read_seal, seal_directory
from pipeline.training.checkpoint import CheckpointStore, checkpoint_files, read_checkpoint, verify_checkpoint
from pipeline.training.checkpoint_seal import FILES, KIND, STATE, BrokenCheckpoint
from pipeline.training.state import TrainingState
from tests.training.states import assert_same, small_state

pytestmark = pytest.mark.slow

ALL_FILES = [*FILES, SEAL]


def store(tmp_path: Path, keep_last: int = 2, keep_best: bool = True) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last, keep_best)


def no_warning(text: str) -> None:
    pytest.fail(f"unexpected warning: {text}")


def names(checkpoints: CheckpointStore) -> list[str]:
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_what_is_read_is_bit_for_bit_what_was_saved(tmp_path: Path) -> None:
    path = store(tmp_path).save(small_state(3), best_step=None).path
    verify_checkpoint(path)
    assert_same(read_checkpoint(path), small_state(3))


def test_nothing_of_the_state_is_left_out_of_a_checkpoint(tmp_path: Path) -> None:
    """A field that is added to the state arrives, or this fails."""
    path = store(tmp_path).save(small_state(3), best_step=None).path
    about, written = read_checkpoint(path), json.loads((path / STATE).read_text())
    fields = {field.name for field in dataclasses.fields(TrainingState)}
    assert fields == {"model", *written, *small_state(3).about}
    assert about.about == small_state(3).about


def test_the_seal_says_what_the_checkpoint_was_made_from_and_how_long_it_took(tmp_path: Path) -> None:
    saved = store(tmp_path).save(small_state(3), best_step=None)
    seal = read_seal(saved.path, KIND)
    assert seal is not None
    seconds = seal.about["seconds"]
    assert seal.about == {**small_state(3).about, "seconds": seconds}
    assert 0 <= seconds <= saved.seconds
    assert checkpoint_files(saved.path, tmp_path) == [f"checkpoints/step-00000003/{name}" for name in ALL_FILES]
    assert saved.size == sum((saved.path / name).stat().st_size for name in ALL_FILES)


def test_the_newest_is_used(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    assert checkpoints.newest(no_warning) is None
    # The name of a step of nine digits comes before that of eight.
    for step in (5, 99_999_999, 100_000_000):
        newest = checkpoints.save(small_state(step), best_step=None).path
        assert checkpoints.newest(no_warning) == newest
    assert names(checkpoints) == ["step-100000000", "step-99999999"]


def test_keeps_the_last_k_and_the_best(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep_last=2)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(small_state(step), best_step=2 if step >= 2 else 1)
    assert names(checkpoints) == ["step-00000002", "step-00000004", "step-00000005"]


def test_without_keep_best_only_the_last_k_stay(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep_last=1, keep_best=False)
    for step in (1, 2, 3):
        checkpoints.save(small_state(step), best_step=1)
    assert names(checkpoints) == ["step-00000003"]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_broken_checkpoint_that_was_passed_over_takes_no_place_of_those_kept(tmp_path: Path, keep_last: int) -> None:
    checkpoints = store(tmp_path, keep_last, keep_best=False)
    good = checkpoints.save(small_state(10), best_step=None).path
    for name in ("step-00000020", "step-00000030"):
        shutil.copytree(good, checkpoints.directory / name)
        damage(checkpoints.directory / name / "model.safetensors", "cut short")
    assert checkpoints.newest(lambda text: None) == good
    checkpoints.save(small_state(15), best_step=None)
    assert names(checkpoints) == ["step-00000010", "step-00000015"][-keep_last:]


def test_a_checkpoint_loses_its_seal_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it removes one, a store is not left with a checkpoint that looks whole."""
    checkpoints = store(tmp_path, keep_last=1)
    first = checkpoints.save(small_state(1), best_step=None).path
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    checkpoints.save(small_state(2), best_step=None)
    assert sorted(path.name for path in first.iterdir()) == sorted(FILES)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut short":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    path.unlink()
    if how != "missing":
        path.write_bytes(content)


def two_checkpoints(tmp_path: Path) -> tuple[CheckpointStore, Path, Path]:
    checkpoints = store(tmp_path)
    good, bad = (checkpoints.save(small_state(step), best_step=None).path for step in (20, 30))
    return checkpoints, good, bad


def assert_named_and_passed_over(checkpoints: CheckpointStore, file: Path, good: Path) -> None:
    warnings: list[str] = []
    assert checkpoints.newest(warnings.append) == good
    assert len(warnings) == 1
    assert warnings[0].startswith(f"broken checkpoint passed over: {file}: "), warnings[0]


@pytest.mark.parametrize("how", ["cut short", "empty", "missing"])
@pytest.mark.parametrize("name", ALL_FILES)
def test_a_damaged_file_is_named_and_the_previous_checkpoint_is_used(tmp_path: Path, name: str, how: str) -> None:
    checkpoints, good, bad = two_checkpoints(tmp_path)
    damage(bad / name, how)
    assert_named_and_passed_over(checkpoints, bad / name, good)


@pytest.mark.parametrize("name", ALL_FILES)
def test_one_flipped_bit_anywhere_is_named_and_the_previous_checkpoint_is_used(tmp_path: Path, name: str) -> None:
    """Every bit of the seal and of the state, and every 97th of the tensor files."""
    checkpoints, good, bad = two_checkpoints(tmp_path)
    content, status = (bad / name).read_bytes(), (bad / name).stat()
    for bit in range(0, 8 * len(content), 97 if name.endswith(".safetensors") else 1):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (bad / name).write_bytes(flipped)
        # A file is read again if it looks changed.
        os.utime(bad / name, ns=(status.st_atime_ns, status.st_mtime_ns + bit + 1))
        with pytest.raises(BrokenCheckpoint, match=f"^{bad / name}: "):
            verify_checkpoint(bad)
    assert_named_and_passed_over(checkpoints, bad / name, good)


@pytest.mark.parametrize("other", ["32", "10"])
@pytest.mark.parametrize("name", [STATE, SEAL])
def test_another_step_in_the_state_or_the_seal_is_named(tmp_path: Path, name: str, other: str) -> None:
    """30 -> 32 is one bit; 30 -> 10 would let the newest checkpoint be removed as an old one."""
    checkpoints, good, bad = two_checkpoints(tmp_path)
    text = (bad / name).read_text()
    assert text.count('"global_step": 30') >= 1
    (bad / name).write_text(text.replace('"global_step": 30', f'"global_step": {other}', 1))
    assert_named_and_passed_over(checkpoints, bad / name, good)
    assert bad.exists()


def sealed_anew(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The seal again, over what is there now."""
    seal = read_seal(path, KIND)
    assert seal is not None
    about = dict(seal.about)
    change(about)
    seal_directory(path, KIND, about, FILES)


def test_a_sound_seal_of_another_step_than_its_directorys_is_named(tmp_path: Path) -> None:
    checkpoints, good, bad = two_checkpoints(tmp_path)
    sealed_anew(bad, lambda about: about.update(global_step=32))
    assert_named_and_passed_over(checkpoints, bad / SEAL, good)


def test_a_sealed_state_of_another_step_is_named(tmp_path: Path) -> None:
    checkpoints, good, bad = two_checkpoints(tmp_path)
    shutil.copy(good / STATE, bad / STATE)
    sealed_anew(bad, lambda about: None)
    assert_named_and_passed_over(checkpoints, bad / STATE, good)


def test_a_checkpoint_under_the_name_of_another_step_is_named(tmp_path: Path) -> None:
    checkpoints, good, bad = two_checkpoints(tmp_path)
    moved = bad.rename(bad.with_name("step-00000032"))
    assert_named_and_passed_over(checkpoints, moved / SEAL, good)


def test_training_starts_over_only_if_it_is_told_to(tmp_path: Path) -> None:
    checkpoints, *paths = two_checkpoints(tmp_path)
    for path in paths:
        damage(path / "model.safetensors", "cut short")
    with pytest.raises(UserError) as caught:
        checkpoints.newest(lambda text: None)
    newer, older, advice = str(caught.value).splitlines()
    assert newer.startswith(f"{paths[1]}/model.safetensors: ")
    assert older.startswith(f"{paths[0]}/model.safetensors: ")
    assert advice == f"no whole checkpoint is left; delete {checkpoints.directory} to start from the beginning"


def test_leftovers_of_a_killed_save_are_no_checkpoint_and_are_removed(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    checkpoints.directory.mkdir()
    leftover = checkpoints.directory / ".tmp-999-step-00000007"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest(no_warning) is None
    checkpoints.save(small_state(8), best_step=None)
    assert not leftover.exists()


def test_a_step_saved_again_replaces_a_broken_one(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    path = checkpoints.save(small_state(4), best_step=None).path
    damage(path / STATE, "empty")
    checkpoints.save(small_state(4), best_step=None)
    verify_checkpoint(path)


def test_a_process_hashes_a_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path).save(small_state(1), best_step=None).path
    hashed: list[str] = []

    def noting(file: Path) -> str:
        hashed.append(file.name)
        return sha256_of(file)

    monkeypatch.setattr("pipeline.store.seal.sha256_of", noting)
    verify_checkpoint(path)
    verify_checkpoint(path)
    read_checkpoint(path)
    assert sorted(hashed) == sorted(FILES)


def test_a_pickle_in_place_of_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "code-was-run"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    path = store(tmp_path).save(small_state(1), best_step=None).path
    for name in ALL_FILES:
        (path / name).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(BrokenCheckpoint):
        verify_checkpoint(path)
    assert not marker.exists()
