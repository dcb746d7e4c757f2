from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import ScoreFile
from pipeline.runs.artifact import sha256_of

MADE_FROM = {"weights": "a", "plan": {"name": "center"}}
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
    file.assemble(parts, MADE_FROM)
    opened = file.open()
    assert isinstance(opened, np.memmap)
    np.testing.assert_array_equal(opened, SCORES)
    np.save(tmp_path / "by_numpy.npy", SCORES)
    assert file.path.read_bytes() == (tmp_path / "by_numpy.npy").read_bytes()


def test_description_says_what_the_scores_are(tmp_path: Path, parts: PartFolder) -> None:
    file = ScoreFile(tmp_path, "center")
    description = file.assemble(parts, MADE_FROM)
    assert (description.images, description.classes, description.seconds) == (10, 3, 4.5)
    assert description.sha256 == sha256_of(file.path)
    assert file.describe(MADE_FROM) == description
    assert json.loads((tmp_path / "scores-center.json").read_text())["made_from"] == MADE_FROM


@pytest.mark.parametrize(
    "damage", ["other weights", "changed scores", "no scores", "no description", "cut description"]
)
def test_a_score_file_counts_only_if_it_is_whole_and_ours(tmp_path: Path, parts: PartFolder, damage: str) -> None:
    file = ScoreFile(tmp_path, "center")
    file.assemble(parts, MADE_FROM)
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
        ScoreFile(tmp_path, "center").assemble(parts, MADE_FROM)
    assert not (tmp_path / "scores-center.npy").exists()
