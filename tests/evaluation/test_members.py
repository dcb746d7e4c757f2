"""What may be fused together, and how members are found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.members import find_index, find_scores, read_members
from pipeline.ground.errors import UserError
from tests.evaluation.ensemble_members import make_index, make_scores, rewrite_scores, write_scores


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    index = make_index(tmp_path / "prepare")
    return write_scores(tmp_path / "a", "one", make_scores(index.labels, 8, 1), index)


def other_scores(tmp_path: Path, change: dict[str, Any] | None = None, **options: object) -> Path:
    index = make_index(tmp_path / "other" / "prepare", **options)  # type: ignore[arg-type]
    array = make_scores(index.labels, len(index.classes), 2)
    return write_scores(tmp_path / "b", "one", array, index, **(change or {}))


def no_runs(run: Path) -> Path:
    raise AssertionError(f"{run} is no run")


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
    with pytest.raises(UserError, match=r"scores-one\.npy: 668 bytes, 768 when it was written; evaluate again"):
        read_members([scores])


def test_members_of_one_plan_are_told_apart_by_their_folders(tmp_path: Path, scores: Path) -> None:
    assert [member.name for member in read_members([scores])] == ["one"]
    assert [member.name for member in read_members([scores, other_scores(tmp_path)])] == ["a:one", "b:one"]


def test_a_folder_stands_for_its_score_files(tmp_path: Path, scores: Path) -> None:
    index = make_index(tmp_path / "again")
    second = write_scores(tmp_path / "a", "two", make_scores(index.labels, 8, 3), index)
    assert find_scores(tmp_path / "a", no_runs) == [scores, second]
    assert find_scores(scores, no_runs) == [scores]


def test_a_run_stands_for_the_score_files_of_its_evaluation(tmp_path: Path, scores: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    assert find_scores(run, {run: scores.parent}.__getitem__) == [scores]


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
        find_scores(tmp_path / name, no_runs)


def test_labels_come_from_an_index_of_the_same_images_only(tmp_path: Path, scores: Path) -> None:
    members = read_members([scores])
    assert find_index(members, tmp_path / "prepare")[0].dataset == "folder"
    make_index(tmp_path / "foreign", num_images=41)
    for given in (tmp_path / "foreign", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"no index of the images that .*scores-one\.npy was made from"):
            find_index(members, given)


def test_labels_come_unasked_from_the_very_index_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    index = make_index(store / "prepare-1")
    path = write_scores(store / "evaluate-1", "one", make_scores(index.labels, 8, 1), index)
    make_index(store / "prepare-0", num_images=41)
    assert find_index(read_members([path]), None)[1] == store / "prepare-1"
    # The same names are not enough: labels, or the images themselves, may be others.
    rewrite_scores(path, make_scores(index.labels, 8, 1), index_sha256="0")
    with pytest.raises(UserError, match=r"give the run whose prepare stage has it \(--images RUN\)"):
        find_index(read_members([path]), None)


def test_a_damaged_index_is_named_and_gives_no_labels(tmp_path: Path, scores: Path) -> None:
    members = read_members([scores])
    shutil.copytree(tmp_path / "prepare", tmp_path / "other" / "prepare")
    rows = tmp_path / "prepare" / "rows.npy"
    content = bytearray(rows.read_bytes())
    content[-60] ^= 1
    rows.write_bytes(content)
    damage = rf"{rows}: its content has changed since it was written \(SHA-256 differs\)\n.*no index of the images"
    with pytest.raises(UserError, match=damage):
        find_index(members, tmp_path / "prepare")
    assert find_index(members, tmp_path / "other" / "prepare")[1] == tmp_path / "other" / "prepare"


def test_a_damaged_fusion_does_not_say_where_the_index_is(scores: Path) -> None:
    (scores.parent / "fused.json").write_text('{"index": ')
    with pytest.raises(UserError, match="no index of the images"):
        find_index(read_members([scores]), None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused_by_name(scores: Path, value: float) -> None:
    array = np.full((40, 8), -1.0, np.float16)
    array[17, 3] = value
    rewrite_scores(scores, array)
    with pytest.raises(
        UserError, match=r"scores-one\.npy: must hold log-probabilities.*\(row 17 has NaN or infinity\)"
    ):
        read_members([scores])


def test_scores_of_another_shape_are_refused_by_name(scores: Path) -> None:
    array = np.full((40, 7), -1.0, np.float16)
    rewrite_scores(scores, array)
    with pytest.raises(
        UserError, match=r"scores-one\.npy: must be \(40, 8\) float16, as its seal says \(it is \(40, 7\)"
    ):
        read_members([scores])
