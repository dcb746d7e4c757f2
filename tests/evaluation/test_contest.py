"""The contest's measure, against its definition and against files that people get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launch.__main__ import main
from pipeline.data.ilsvrc import Ilsvrc, Synset, digest_ids, read_ilsvrc2012
from pipeline.evaluation.contest import (
    FlatErrors,
    Predictions,
    flat_errors,
    read_blacklist,
    read_predictions,
    read_truth,
)
from pipeline.ground.errors import UserError

ILSVRC = read_ilsvrc2012()
BY_LABEL = np.array([synset.ilsvrc2012_id for synset in ILSVRC.synsets])
LABEL_OF_ID = np.zeros(1001, np.int64)
LABEL_OF_ID[BY_LABEL] = np.arange(1000)
TRUTH = np.random.default_rng(1).integers(1, 1001, 400)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def good_ids() -> np.ndarray:
    """Right at the first prediction for half of the images, at the third for a quarter, else wrong."""
    ids = np.random.default_rng(2).integers(1, 1001, (len(TRUTH), 5))
    ids[:200, 0] = TRUTH[:200]
    ids[200:300, 2] = TRUTH[200:300]
    return ids


def score(path: Path, truth: np.ndarray = TRUTH, blacklist: np.ndarray | None = None) -> FlatErrors:
    return flat_errors(read_predictions(path, None), truth, blacklist, ILSVRC)


def lines_of(ids: np.ndarray) -> list[str]:
    return [" ".join(map(str, row)) for row in ids.tolist()]


def test_error_is_the_share_of_images_without_their_class_among_the_predictions(tmp_path: Path) -> None:
    ids = good_ids()
    errors = score(write(tmp_path / "predictions.txt", *lines_of(ids)))
    expected = [
        np.mean([truth not in row[:k] for truth, row in zip(TRUTH.tolist(), ids.tolist(), strict=True)])
        for k in range(1, 6)
    ]
    assert errors.all_images == pytest.approx(expected)
    assert errors.all_images[0] == pytest.approx(0.5, abs=0.01)
    assert errors.mistake is None


def test_blacklisted_images_stay_in_the_error_and_leave_the_figure_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.txt", *lines_of(good_ids()))
    blacklist = read_blacklist(write(tmp_path / "blacklist.txt", *map(str, range(301, 401))), len(TRUTH))
    errors = score(path, blacklist=blacklist)
    assert errors.all_images == score(path).all_images
    assert errors.without_blacklisted is not None
    assert errors.without_blacklisted[-1] == 0
    assert errors.num_blacklisted == 100


def test_ragged_lines_are_filled_and_predictions_after_the_fifth_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.txt", "7", "1 2 3 4 5 6", "9 8", "1, 2,\t3", "5 0 0 0 0")
    predictions = read_predictions(path, None)
    assert predictions.form == "2012"
    assert predictions.ids.tolist() == [
        [7, 0, 0, 0, 0],
        [1, 2, 3, 4, 5],
        [9, 8, 0, 0, 0],
        [1, 2, 3, 0, 0],
        [5, 0, 0, 0, 0],
    ]
    assert (predictions.ragged, predictions.ignored) == (4, 1)
    assert score(path, np.array([7, 6, 8, 3, 5])).all_images == pytest.approx((0.6, 0.4, 0.2, 0.2, 0.2))


def test_form_with_boxes_is_recognised_and_its_boxes_passed_over(tmp_path: Path) -> None:
    ids = good_ids()
    plain = score(write(tmp_path / "plain.txt", *lines_of(ids)))
    boxed = write(
        tmp_path / "boxed.txt", *(" ".join(f"{prediction} 1 1 500 375" for prediction in row) for row in ids.tolist())
    )
    assert read_predictions(boxed, None).form == "2014"
    assert score(boxed) == plain
    fewer = write(tmp_path / "fewer.txt", "3 1 1 20.5 30 4 2 2 9 9", "5 1 1 500 375")
    assert read_predictions(fewer, None).ids[:, :3].tolist() == [[3, 4, 0], [5, 0, 0]]


def test_five_sorted_predictions_a_line_are_no_boxes(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.txt", *(" ".join(map(str, sorted(row))) for row in good_ids().tolist()))
    assert read_predictions(path, None).form == "2012"
    assert read_predictions(write(tmp_path / "boxed.txt", "7 1 1 500 375", "7 1 1 1600 1200"), None).form == "2014"


def test_a_file_that_makes_sense_in_both_forms_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One prediction a line with a box in an image of fewer than 1000 pixels, or five sorted predictions."""
    path = write(tmp_path / "predictions.txt", "7 1 1 500 375", "9 10 20 330 500")
    truth = write(tmp_path / "truth.txt", "7", "9")
    warning = "can be read in both forms: five ids a line, or one id with a box; say which it is with --form 2012 or"
    assert main(["score", str(path), "--truth", str(truth)]) == 0
    assert warning in capsys.readouterr().err
    for form in ("2012", "2014"):
        assert main(["score", str(path), "--truth", str(truth), "--form", form]) == 0
        assert warning not in capsys.readouterr().err


def test_a_file_of_the_older_form_read_as_the_newer_one_is_one_prediction_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.txt", *lines_of(good_ids()))
    misread = flat_errors(read_predictions(path, "2014"), TRUTH, None, ILSVRC)
    assert misread.all_images == (score(path).all_images[0],) * 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda ids: LABEL_OF_ID[ids] + 1, "sorted order of the WordNet ids, from 1"),
        (lambda ids: ids[np.argsort(LABEL_OF_ID[TRUTH], kind="stable")], "lines in the order of class folders"),
    ],
)
def test_wrong_order_is_named_where_the_error_would_else_be_that_of_chance(
    tmp_path: Path, values: object, message: str
) -> None:
    errors = score(write(tmp_path / "predictions.txt", *lines_of(values(good_ids()))))
    assert errors.all_images[-1] > 0.95
    assert errors.mistake is not None
    assert message in errors.mistake


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda ids: LABEL_OF_ID[ids], "these look like places in the sorted order of the WordNet ids, from 0"),
        (lambda ids: ids - 1, "these look like ILSVRC2012_IDs that count from 0"),
    ],
)
def test_ids_that_count_from_0_are_refused_and_named(tmp_path: Path, values: object, message: str) -> None:
    ids = good_ids()
    ids[17, 1] = BY_LABEL[0] if "WordNet" in message else 1
    with pytest.raises(
        UserError, match=rf"predictions\.txt:\d+: predictions must be ILSVRC2012_IDs, which .*{message}"
    ):
        score(write(tmp_path / "predictions.txt", *lines_of(values(ids))))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2", "3 1001"], r"predictions\.txt:2: predictions must be ILSVRC2012_IDs, 1 to 1,000 \(given 1001\)"),
        (["1 2", "-3"], r"predictions\.txt:2: .*\(given -3\)"),
        (["1.5"], r"predictions\.txt:1: .*\(given 1\.5\)"),
        (["1", "n01440764"], r"predictions\.txt:2: must hold numbers and nothing else \(given 'n01440764'\)"),
        (["1", "nan"], r"predictions\.txt:2: must hold finite numbers"),
        (["1", "", "2"], r"predictions\.txt:2: must hold at least one prediction \(the line is blank\)"),
        (["1"], r"predictions\.txt: must have 2 lines, one for each image \(it has 1\)"),
        (["1", "2", "3"], r"must have 2 lines, one for each image \(it has 3\)"),
        ([], r"predictions\.txt: is empty"),
    ],
)
def test_files_that_are_none_are_refused_with_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path / "predictions.txt", *lines)
    with pytest.raises(UserError, match=message):
        score(path, np.array([1, 2]))


def test_a_box_that_is_cut_short_is_refused_with_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.txt", "3 1 1 20 30", "5 1 1")
    with pytest.raises(
        UserError, match=r"predictions\.txt:2: each prediction must be `id xmin ymin xmax ymax` \(given 3 num"
    ):
        read_predictions(path, "2014")


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: cannot be read \(No such file"):
        read_predictions(tmp_path / "nowhere", None)
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"image\.jpg: cannot be read \(it is no text file\)"):
        read_predictions(tmp_path / "image.jpg", None)


def test_truth_and_blacklist_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"truth\.txt:2: must be one ILSVRC2012_ID a line \(given '3 4'\)"):
        read_truth(write(tmp_path / "truth.txt", "1", "3 4"), ILSVRC)
    with pytest.raises(UserError, match=r"blacklist\.txt:1: must be the number of an image a line, 1 to 8 \(given 9\)"):
        read_blacklist(write(tmp_path / "blacklist.txt", "9"), 8)
    table = Ilsvrc((Synset("n1", 2, 1, "a"), Synset("n2", 1, 1, "b")), 3, 1, digest_ids((1, 2, 1)))
    assert read_truth(write(tmp_path / "truth.txt", "1", "2", "1"), table).tolist() == [1, 2, 1]
    with pytest.raises(UserError, match="these are other labels, or out of order"):
        read_truth(write(tmp_path / "truth.txt", "2", "1", "1"), table)


def test_the_contests_own_labels_and_blacklist(shared_data: Path) -> None:
    truth_file = shared_data / "ilsvrc2012_validation_ground_truth.txt"
    truth = read_truth(truth_file, ILSVRC)
    blacklist = read_blacklist(shared_data / "ilsvrc2012_validation_blacklist.txt", len(truth))
    assert (len(truth), int(blacklist.sum())) == (50_000, 1762)
    right = Predictions(truth_file, "2012", np.column_stack([truth] * 5), 0, 0)
    assert flat_errors(right, truth, blacklist, ILSVRC).all_images == (0,) * 5
    by_wnid = Predictions(truth_file, "2012", LABEL_OF_ID[right.ids] + 1, 0, 0)
    errors = flat_errors(by_wnid, truth, blacklist, ILSVRC)
    # No class has the same place in both orders: what was right everywhere is then right nowhere.
    assert errors.all_images == (1,) * 5
    assert errors.mistake == "places in the sorted order of the WordNet ids, from 1"
