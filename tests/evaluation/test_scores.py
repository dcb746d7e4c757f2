from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.index import ImageClass, ImageIndex
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import (
    ScoreDescription,
    ScoreFile,
    digest_classes,
    digest_images,
    image_names,
    read_scores,
)
from pipeline.ground.errors import UserError
from pipeline.store.file import sha256_of

MADE_FROM = {"weights": "a", "plan": {"averaging": "probabilities"}}
DRAFT = ScoreDescription(
    plan="center",
    averaging="probabilities",
    split="val",
    weights="mine.safetensors",
    weights_sha256="a",
    images=10,
    images_sha256="i",
    classes=3,
    classes_sha256="c",
    made_from=MADE_FROM,
    seconds=0.0,
    sha256="",
)
SCORES = np.random.default_rng(21).normal(size=(10, 3)).astype(np.float16)


@pytest.fixture
def parts(tmp_path: Path) -> PartFolder:
    folder = PartFolder(tmp_path / "parts", MADE_FROM, num_images=10, num_classes=3, images_per_part=4)
    folder.survey()
    for number in range(len(folder)):
        folder.write(number, Part(SCORES[folder.positions(number)], seconds=1.5))
    return folder


def test_assembled_file_is_a_plain_npy_that_is_mapped_and_not_read(tmp_path: Path, parts: PartFolder) -> None:
    file = ScoreFile(tmp_path, "center")
    file.assemble(parts, DRAFT)
    opened = file.open()
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, SCORES)
    np.save(tmp_path / "by_numpy.npy", SCORES)
    assert file.path.read_bytes() == (tmp_path / "by_numpy.npy").read_bytes()


def test_description_says_what_the_scores_are(tmp_path: Path, parts: PartFolder) -> None:
    file = ScoreFile(tmp_path, "center")
    description = file.assemble(parts, DRAFT)
    assert description == dataclasses.replace(DRAFT, seconds=4.5, sha256=sha256_of(file.path))
    assert file.describe(MADE_FROM) == description
    assert json.loads((tmp_path / "scores-center.json").read_text()) == dataclasses.asdict(description)


@pytest.mark.parametrize(
    "damage", ["other weights", "changed scores", "no scores", "no description", "cut description"]
)
def test_a_score_file_counts_only_if_it_is_whole_and_ours(tmp_path: Path, parts: PartFolder, damage: str) -> None:
    file = ScoreFile(tmp_path, "center")
    file.assemble(parts, DRAFT)
    made_from = MADE_FROM
    match damage:
        case "other weights":
            made_from = {**MADE_FROM, "weights": "b"}
        case "changed scores":
            content = bytearray(file.path.read_bytes())
            content[-1] ^= 1
            file.path.write_bytes(content)
        case "no scores":
            file.path.unlink()
        case "no description":
            file.description_path.unlink()
        case "cut description":
            file.description_path.write_bytes(file.description_path.read_bytes()[:40])
    assert file.describe(made_from) is None


def test_a_part_that_breaks_before_it_is_assembled_is_named(tmp_path: Path, parts: PartFolder) -> None:
    (tmp_path / "parts" / "00000001.part").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"00000001\.part: damaged .* run the same command again to redo it"):
        ScoreFile(tmp_path, "center").assemble(parts, DRAFT)
    assert not (tmp_path / "scores-center.npy").exists()


def test_scores_are_read_mapped_with_their_description(tmp_path: Path, parts: PartFolder) -> None:
    file = ScoreFile(tmp_path, "center")
    description = file.assemble(parts, DRAFT)
    scores = read_scores(tmp_path / "scores-center.npy")
    assert (scores.path, scores.description) == (file.path, description)
    assert isinstance(scores.array, np.memmap)
    np.testing.assert_array_equal(scores.array, SCORES)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no scores", r"scores-center\.npy: no such score file"),
        ("no description", r"scores-center\.json: no such file; it must describe scores-center\.npy"),
        ("cut description", r"scores-center\.json: not a readable description of scores"),
        ("other description", r"scores-center\.json: not a readable description of scores \(.*seconds"),
        ("cut", r"scores-center\.npy: cut short, or not a score file"),
        ("empty", r"scores-center\.npy: cut short, or not a score file"),
        ("changed", r"scores-center\.npy: not the file that scores-center\.json describes \(SHA-256 differs\)"),
    ],
)
def test_a_damaged_score_file_is_named(tmp_path: Path, parts: PartFolder, damage: str, message: str) -> None:
    file = ScoreFile(tmp_path, "center")
    file.assemble(parts, DRAFT)
    content, text = file.path.read_bytes(), file.description_path.read_text()
    match damage:
        case "no scores":
            file.path.unlink()
        case "no description":
            file.description_path.unlink()
        case "cut description":
            file.description_path.write_text(text[:40])
        case "other description":
            fields = json.loads(text)
            del fields["seconds"]
            file.description_path.write_text(json.dumps(fields))
        case "cut":
            file.path.write_bytes(content[:-1])
        case "empty":
            file.path.write_bytes(b"")
        case "changed":
            file.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=message):
        read_scores(file.path)


def test_scores_made_from_the_same_are_taken_over_under_their_new_name(tmp_path: Path, parts: PartFolder) -> None:
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    earlier.mkdir()
    later.mkdir()
    old = ScoreFile(earlier, "old-name").assemble(parts, dataclasses.replace(DRAFT, plan="old-name"))
    file = ScoreFile(later, "center")
    assert file.take_over(DRAFT, [tmp_path / "none", earlier]) == earlier / "scores-old-name.npy"
    assert file.describe(MADE_FROM) == dataclasses.replace(old, plan="center")
    # Shared, not copied; and it outlives the other.
    assert file.path.samefile(earlier / "scores-old-name.npy")
    (earlier / "scores-old-name.npy").unlink()
    np.testing.assert_array_equal(read_scores(file.path).array, SCORES)


@pytest.mark.parametrize("unfit", ["other weights", "damaged"])
def test_no_scores_are_taken_over_that_are_not_the_same(tmp_path: Path, parts: PartFolder, unfit: str) -> None:
    earlier = ScoreFile(tmp_path, "center")
    earlier.assemble(parts, DRAFT)
    draft = DRAFT
    if unfit == "damaged":
        earlier.path.write_bytes(earlier.path.read_bytes()[:-2])
    else:
        draft = dataclasses.replace(DRAFT, made_from={**MADE_FROM, "weights": "b"})
    (tmp_path / "own").mkdir()
    assert ScoreFile(tmp_path / "own", "center").take_over(draft, [tmp_path]) is None
    assert not list((tmp_path / "own").iterdir())


def test_images_are_named_by_their_files_or_by_paths_where_names_repeat(tmp_path: Path) -> None:
    assert image_names(index_of("n01/b.JPEG", "n02/a.JPEG")) == ["b.JPEG", "a.JPEG"]
    assert image_names(index_of("n01/0.JPEG", "n02/0.JPEG")) == ["n01/0.JPEG", "n02/0.JPEG"]
    assert digest_images(["b", "a"]) == hashlib.sha256(b"b\na").hexdigest() != digest_images(["a", "b"])
    classes = [ImageClass(label, folder, "", None) for label, folder in enumerate(("n02", "n01"))]
    assert digest_classes(classes) == hashlib.sha256(b"n02\nn01").hexdigest()


def index_of(*paths: str) -> ImageIndex:
    numbers = np.zeros(len(paths), dtype=np.int64)
    texts = [""] * len(paths)
    return ImageIndex(Path(), paths, numbers, numbers, numbers, numbers, texts, texts, "")
