from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipeline.store.seal import (
    SEAL,
    BrokenSeal,
    beside,
    is_sealed,
    read_seal,
    remove_sealed,
    seal_directory,
    seal_file,
    verify_files,
)

SEED = 20
FLIPS = 200


def sealed(folder: Path) -> Path:
    directory = folder / "step-00000030"
    directory.mkdir()
    (directory / "model").write_bytes(b"weights")
    (directory / "state").write_bytes(b"{}")
    seal_directory(directory, "checkpoint", {"global_step": 30, "speeds": (1.5, 2)}, ["model", "state"])
    return directory


def test_a_seal_says_what_it_was_made_from_and_every_file(tmp_path: Path) -> None:
    seal = read_seal(sealed(tmp_path), "checkpoint")
    assert seal is not None
    assert seal.about == {"global_step": 30, "speeds": [1.5, 2]}
    assert {name: file.size for name, file in seal.files.items()} == {"model": 7, "state": 2}
    verify_files(tmp_path / "step-00000030", seal)


def test_what_is_not_sealed_has_none(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert read_seal(tmp_path / "d", "stage") is None
    assert read_seal(tmp_path / "nothing", "stage") is None
    assert read_seal(tmp_path / "file.npy", "scores") is None
    assert not is_sealed(tmp_path / "d")


def test_no_flipped_bit_of_a_seal_goes_unseen(tmp_path: Path) -> None:
    print("seed", SEED)
    directory = sealed(tmp_path)
    whole = (directory / SEAL).read_bytes()
    fields = json.loads(whole)
    draw = random.Random(SEED)
    for _ in range(FLIPS):
        place, bit = draw.randrange(len(whole)), draw.randrange(8)
        content = bytearray(whole)
        content[place] ^= 1 << bit
        (directory / SEAL).write_bytes(content)
        refused = None
        try:
            read_seal(directory, "checkpoint")
        except BrokenSeal as error:
            refused = str(error)
        if refused is None:
            # Layout alone: blanks between the values.
            assert json.loads(content) == fields
        else:
            assert str(directory / SEAL) in refused


@pytest.mark.parametrize("step", [32, 10])
def test_another_step_in_the_seal_is_named(tmp_path: Path, step: int) -> None:
    directory = sealed(tmp_path)
    text = (directory / SEAL).read_text()
    (directory / SEAL).write_text(text.replace('"global_step": 30', f'"global_step": {step}'))
    with pytest.raises(BrokenSeal, match=r"seal\.json: damaged \(its own SHA-256 does not fit\)"):
        read_seal(directory, "checkpoint")


def test_the_seal_of_another_kind_or_name_is_refused(tmp_path: Path) -> None:
    directory = sealed(tmp_path)
    with pytest.raises(BrokenSeal, match="the seal of a checkpoint, not of a stage"):
        read_seal(directory, "stage")
    moved = directory.rename(tmp_path / "step-00000031")
    with pytest.raises(BrokenSeal, match="the seal of step-00000030, not of step-00000031"):
        read_seal(moved, "checkpoint")


def test_a_file_that_changed_is_named_whatever_its_size(tmp_path: Path) -> None:
    directory = sealed(tmp_path)
    seal = read_seal(directory, "checkpoint")
    assert seal is not None
    (directory / "model").write_bytes(b"Weights")
    with pytest.raises(BrokenSeal, match=r"model: its content has changed since it was written \(SHA-256 differs\)"):
        verify_files(directory, seal)
    (directory / "model").write_bytes(b"more weights")
    with pytest.raises(BrokenSeal, match="model: 12 bytes, 7 when it was written"):
        verify_files(directory, seal)
    (directory / "model").unlink()
    (directory / "state").unlink()
    with pytest.raises(BrokenSeal, match=r"model: missing\n.*state: missing"):
        verify_files(directory, seal)


def test_a_file_is_read_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = sealed(tmp_path)
    seal = read_seal(directory, "checkpoint")
    assert seal is not None
    verify_files(directory, seal)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("pipeline.store.seal.sha256_of", refuse)
    verify_files(directory, seal)


def test_a_single_file_has_its_seal_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "scores-10crop.npy"
    file.write_bytes(b"scores")
    seal_file(file, "scores", {"plan": "10crop"})
    assert beside(file) == tmp_path / "scores-10crop.seal.json"
    seal = read_seal(file, "scores")
    assert seal is not None
    verify_files(file, seal)
    remove_sealed(file)
    assert list(tmp_path.iterdir()) == []


def test_removing_takes_the_seal_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = sealed(tmp_path)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_sealed(directory)
    assert not is_sealed(directory)
    assert (directory / "model").exists()
