"""What may be fused together, and how members are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation.members import find_dataset, find_scores, read_members
from pipeline.ground.errors import UserError
from stages import STAGES
from tests.evaluation.ensemble_members import make_dataset, make_scores, write_scores


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    dataset = make_dataset(tmp_path / "prepare")
    return write_scores(tmp_path / "a", "one", make_scores(dataset.val.labels, 8, 1), dataset)


def other_scores(tmp_path: Path, change: dict[str, object] | None = None, **dataset: object) -> Path:
    made = make_dataset(tmp_path / "other" / "prepare", **dataset)  # type: ignore[arg-type]
    path = write_scores(tmp_path / "b", "one", make_scores(made.val.labels, len(made.classes), 2), made)
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **(change or {})}))
    return path


@pytest.mark.parametrize(
    ("dataset", "change", "message"),
    [
        ({"num_images": 41}, {}, r"scores of different images \(40 and 41\)"),
        ({"num_classes": 9}, {}, "scores of different classes, or of the same in another order"),
        ({}, {"images_sha256": "0"}, "scores of different images, or of the same in another order"),
        ({}, {"split": "test"}, r"scores of different splits \(val and test\)"),
    ],
)
def test_scores_that_do_not_fit_together_are_refused_with_both_names(
    tmp_path: Path, scores: Path, dataset: dict[str, object], change: dict[str, object], message: str
) -> None:
    other = other_scores(tmp_path, change, **dataset)
    with pytest.raises(UserError, match=f"{scores} and {other}: {message} cannot be fused"):
        read_members([scores, other])


def test_the_same_scores_twice_are_refused(scores: Path) -> None:
    with pytest.raises(UserError, match="the same scores twice"):
        read_members([scores, scores])


def test_a_file_cut_short_is_refused(scores: Path) -> None:
    scores.write_bytes(scores.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"scores-one\.npy: cut short"):
        read_members([scores])


def test_members_of_one_plan_are_told_apart_by_their_folders(tmp_path: Path, scores: Path) -> None:
    assert [member.name for member in read_members([scores])] == ["one"]
    assert [member.name for member in read_members([scores, other_scores(tmp_path)])] == ["a:one", "b:one"]


def test_a_folder_stands_for_its_score_files(tmp_path: Path, scores: Path) -> None:
    dataset = make_dataset(tmp_path / "again")
    second = write_scores(tmp_path / "a", "two", make_scores(dataset.val.labels, 8, 3), dataset)
    assert find_scores(tmp_path / "a", STAGES) == [scores, second]
    assert find_scores(scores, STAGES) == [scores]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"must be a score file \(\.npy\), a folder of score files or a run \(nothing there\)"),
        ("file.txt", r"\(a file that does not end in \.npy\)"),
        ("empty", r"no score files \(scores-\*\.npy\) in this folder"),
    ],
)
def test_paths_without_scores_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_scores(tmp_path / name, STAGES)


def test_labels_come_from_an_index_of_the_same_images_only(tmp_path: Path, scores: Path) -> None:
    members = read_members([scores])
    assert find_dataset(members, tmp_path / "prepare")[0].name == "folder"
    make_dataset(tmp_path / "foreign", num_images=41)
    for given in (tmp_path / "foreign", None):
        with pytest.raises(UserError, match=r"no index of the images that .*scores-one\.npy was made from"):
            find_dataset(members, given)
