from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.index import ImageClass
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import (
    KIND,
    ScoreDescription,
    ScoreFile,
    digest_classes,
    digest_images,
    open_scores,
    read_scores,
    short_names,
)
from pipeline.ground.errors import UserError
from pipeline.store.file import sha256_of
from pipeline.store.seal import seal_file

KEY, OTHER = "0123456789", "9876543210"
DESCRIPTION = ScoreDescription(
    plan="center",
    averaging="probabilities",
    split="val",
    weights="mine.safetensors",
    weights_sha256="a",
    images=10,
    images_sha256="i",
    classes=3,
    classes_sha256="c",
    index_sha256="d",
    key=KEY,
    seconds=0.0,
)
SCORES = np.random.default_rng(21).normal(size=(10, 3)).astype(np.float16)


@pytest.fixture
def parts(tmp_path: Path) -> PartFolder:
    folder = PartFolder(tmp_path / "parts", KEY, num_images=10, num_classes=3, images_per_part=4)
    folder.survey()
    for number in range(len(folder)):
        folder.write(number, Part(SCORES[folder.positions(number)], seconds=1.5))
    return folder


def test_assembled_file_is_a_plain_npy_that_is_mapped_and_not_read(tmp_path: Path, parts: PartFolder) -> None:
    file = ScoreFile(tmp_path, "center")
    scores = file.assemble(parts, DESCRIPTION)
    assert isinstance(scores.array, np.memmap)
    np.testing.assert_array_equal(scores.array, SCORES)
    np.save(tmp_path / "by_numpy.npy", SCORES)
    assert file.path.read_bytes() == (tmp_path / "by_numpy.npy").read_bytes()


def test_the_seal_says_what_the_scores_are(tmp_path: Path, parts: PartFolder) -> None:
    file = ScoreFile(tmp_path, "center")
    written = file.assemble(parts, DESCRIPTION)
    assert written.description == dataclasses.replace(DESCRIPTION, seconds=4.5)
    assert written.sha256 == sha256_of(file.path)
    found = open_scores(file.path, KEY)
    assert found is not None
    assert (found.description, found.sha256) == (written.description, written.sha256)
    seal = json.loads((tmp_path / "scores-center.seal.json").read_text())
    assert (seal["kind"], seal["about"]) == ("scores", dataclasses.asdict(written.description))


@pytest.mark.parametrize("lack", ["other weights", "no seal"])
def test_a_score_file_counts_only_if_it_is_sealed_and_ours(tmp_path: Path, parts: PartFolder, lack: str) -> None:
    file = ScoreFile(tmp_path, "center")
    file.assemble(parts, DESCRIPTION)
    if lack == "no seal":
        (tmp_path / "scores-center.seal.json").unlink()
    assert open_scores(file.path, OTHER if lack == "other weights" else KEY) is None


def test_a_part_that_breaks_before_it_is_assembled_is_named(tmp_path: Path, parts: PartFolder) -> None:
    (tmp_path / "parts" / "00000001.npy").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"00000001\.npy: 4 bytes, .*; run the same command again to redo it"):
        ScoreFile(tmp_path, "center").assemble(parts, DESCRIPTION)
    assert not (tmp_path / "scores-center.npy").exists()


def test_scores_are_read_mapped_with_their_description(tmp_path: Path, parts: PartFolder) -> None:
    written = ScoreFile(tmp_path, "center").assemble(parts, DESCRIPTION)
    scores = read_scores(tmp_path / "scores-center.npy")
    assert (scores.path, scores.description) == (written.path, written.description)
    assert isinstance(scores.array, np.memmap)
    np.testing.assert_array_equal(scores.array, SCORES)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no scores", r"scores-center\.npy: no such score file"),
        ("no seal", r"scores-center\.seal\.json: no such file; it must describe scores-center\.npy"),
        ("cut seal", r"scores-center\.seal\.json: not a readable seal"),
        ("changed seal", r"scores-center\.seal\.json: damaged \(its own SHA-256 does not fit\)"),
        ("cut", r"scores-center\.npy: 187 bytes, 188 when it was written"),
        ("empty", r"scores-center\.npy: 0 bytes, 188 when it was written"),
        ("changed", r"scores-center\.npy: its content has changed since it was written \(SHA-256 differs\)"),
        ("other description", r"scores-center\.npy: not a readable score file \(.*seconds"),
        ("no array", r"scores-center\.npy: not a readable score file"),
        (
            "another shape",
            r"scores-center\.npy: must be \(10, 3\) float16, as its seal says \(it is \(5, 6\) float16\)",
        ),
        ("another type", r"scores-center\.npy: must be \(10, 3\) float16, .* \(it is \(10, 3\) float64\)"),
        ("NaN", r"scores-center\.npy: must hold log-probabilities, finite or -inf \(row 4 has NaN or infinity\)"),
        ("infinity", r"scores-center\.npy: must hold log-probabilities, finite or -inf \(row 4 has NaN or infinity\)"),
        ("nothing", r"scores-center\.npy: must hold log-probabilities, finite or -inf \(row 4 has NaN or infinity\)"),
    ],
)
def test_a_damaged_score_file_is_named(tmp_path: Path, parts: PartFolder, damage: str, message: str) -> None:
    """From "other description" on with checksums that were mended."""
    path = ScoreFile(tmp_path, "center").assemble(parts, DESCRIPTION).path
    seal = tmp_path / "scores-center.seal.json"
    content, about = path.read_bytes(), dataclasses.asdict(DESCRIPTION)
    array = SCORES.copy()
    match damage:
        case "no scores":
            path.unlink()
        case "no seal":
            seal.unlink()
        case "cut seal":
            seal.write_text(seal.read_text()[:40])
        case "changed seal":
            seal.write_text(seal.read_text().replace("mine.", "mime."))
        case "cut":
            path.write_bytes(content[:-1])
        case "empty":
            path.write_bytes(b"")
        case "changed":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "other description":
            del about["seconds"]
            seal_file(path, KIND, about)
        case "no array":
            path.write_bytes(b"no array")
            seal_file(path, KIND, about)
        case _:
            array[4, 1] = {"NaN": np.nan, "infinity": np.inf}.get(damage, array[4, 1])
            array[4] = -np.inf if damage == "nothing" else array[4]
            array = array.reshape(5, 6) if damage == "another shape" else array
            np.save(path, array.astype(np.float64) if damage == "another type" else array)
            seal_file(path, KIND, about)
    with pytest.raises(UserError, match=f"{message}.*; evaluate again" if damage != "no scores" else message):
        read_scores(path)


def test_a_class_too_unlikely_for_float16_is_no_damage(tmp_path: Path) -> None:
    array = SCORES.copy()
    array[4, 1] = -np.inf
    path = ScoreFile(tmp_path, "center").write(DESCRIPTION, [array]).path
    np.testing.assert_array_equal(read_scores(path).array, array)


def test_scores_made_from_the_same_are_taken_over_under_their_new_name(tmp_path: Path, parts: PartFolder) -> None:
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    later.mkdir()
    earlier.mkdir()
    old = ScoreFile(earlier, "old-name").assemble(parts, dataclasses.replace(DESCRIPTION, plan="old-name"))
    file = ScoreFile(later, "center")
    assert file.take_over(DESCRIPTION, tmp_path / "none") is None
    taken = file.take_over(DESCRIPTION, earlier)
    assert taken is not None
    assert taken.description == dataclasses.replace(old.description, plan="center")
    # Shared, not copied; and it outlives the other.
    assert file.path.samefile(old.path)
    old.path.unlink()
    np.testing.assert_array_equal(read_scores(file.path).array, SCORES)


@pytest.mark.parametrize("unfit", ["other weights", "damaged", "unreadable"])
def test_no_scores_are_taken_over_that_are_not_the_same(tmp_path: Path, parts: PartFolder, unfit: str) -> None:
    earlier = ScoreFile(tmp_path, "center")
    earlier.assemble(parts, DESCRIPTION)
    description = DESCRIPTION
    if unfit == "damaged":
        earlier.path.write_bytes(earlier.path.read_bytes()[:-2])
    elif unfit == "unreadable":
        (tmp_path / "scores-center.seal.json").unlink()
        (tmp_path / "scores-center.seal.json").mkdir()
    else:
        description = dataclasses.replace(DESCRIPTION, key=OTHER)
    (tmp_path / "own").mkdir()
    assert ScoreFile(tmp_path / "own", "center").take_over(description, tmp_path) is None
    assert not list((tmp_path / "own").iterdir())


def test_images_are_named_by_their_files_or_by_paths_if_names_repeat() -> None:
    assert short_names(["n01/b.JPEG", "n02/a.JPEG"]) == ["b.JPEG", "a.JPEG"]
    assert short_names(["n01/0.JPEG", "n02/0.JPEG"]) == ["n01/0.JPEG", "n02/0.JPEG"]
    assert digest_images(["n01/b", "n02/a"]) == digest_images(["b", "a"]) == hashlib.sha256(b"b\na").hexdigest()
    assert digest_images(["b", "a"]) != digest_images(["a", "b"])
    classes = [ImageClass(label, folder, "", None) for label, folder in enumerate(("n02", "n01"))]
    assert digest_classes(classes) == hashlib.sha256(b"n02\nn01").hexdigest()
