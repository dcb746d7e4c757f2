"""Fusing score files: the arithmetic, the figures, the files it leaves, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.fusion import FuseConfig
from pipeline.data.ilsvrc import Ilsvrc, Synset, digest_ids
from pipeline.data.index import ImageIndex
from pipeline.evaluation.contest import flat_errors, read_predictions
from pipeline.evaluation.ensemble import Fusion, fuse
from pipeline.evaluation.members import find_index, find_scores, read_members
from pipeline.evaluation.metrics import rank_scores
from pipeline.evaluation.scores import read_scores
from pipeline.evaluation.selection import stratified_halves
from pipeline.ground.errors import UserError
from tests.evaluation.ensemble_members import make_index, make_scores, write_scores

NUM_IMAGES, NUM_CLASSES = 120, 8
TABLE = Ilsvrc(
    tuple(Synset(f"n{label:08d}", NUM_CLASSES - label, 1, "") for label in range(NUM_CLASSES)),
    NUM_IMAGES,
    NUM_IMAGES,
    digest_ids(()),
)
PLANS = {"one": (1, 3.0), "two": (2, 4.0), "three": (3, 0.5)}


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    return make_index(tmp_path / "prepare", NUM_IMAGES, NUM_CLASSES, "imagenet")


def no_runs(run: Path) -> Path:
    raise AssertionError(f"{run} is no run")


def make_members(folder: Path, index: ImageIndex, plans: dict[str, tuple[int, float]] | None = None) -> list[Path]:
    return [
        write_scores(folder, plan, make_scores(index.labels, NUM_CLASSES, seed, skill), index)
        for plan, (seed, skill) in (plans or PLANS).items()
    ]


def fuse_files(tmp_path: Path, paths: list[Path], out: str = "out", **config: Any) -> Fusion:
    members = read_members(paths)
    index, prepared = find_index(members, tmp_path / "prepare")
    (tmp_path / out).mkdir(exist_ok=True)
    return fuse(members, index, prepared, FuseConfig(**config), 2017, tmp_path / out, TABLE)


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_fused_scores_are_the_weighted_mean(tmp_path: Path, index: ImageIndex, averaging: str) -> None:
    paths = make_members(tmp_path / "a", index)
    fuse_files(tmp_path, paths, averaging=averaging, member_weights=(1.0, 2.0, 1.0))
    fused = np.asarray(read_scores(tmp_path / "out" / "scores-fused.npy").array, np.float64)
    members = [np.asarray(read_scores(path).array, np.float64) for path in paths]
    if averaging == "probabilities":
        expected = np.log(sum(w * np.exp(m) for w, m in zip((0.25, 0.5, 0.25), members, strict=True)))
    else:
        mean = sum(w * m for w, m in zip((0.25, 0.5, 0.25), members, strict=True))
        expected = mean - np.log(np.exp(mean).sum(1, keepdims=True))
    assert np.abs(fused - expected).max() < 2e-3 * np.abs(expected).max()
    assert np.exp(fused).sum(1) == pytest.approx(1, abs=5e-3)


def test_one_member_is_left_as_it_is(tmp_path: Path, index: ImageIndex) -> None:
    (path,) = make_members(tmp_path / "a", index, {"one": (1, 3.0)})
    fuse_files(tmp_path, [path])
    assert (read_scores(tmp_path / "out" / "scores-fused.npy").array == read_scores(path).array).all()


def test_nothing_is_chosen_of_one_member_even_of_a_single_image(tmp_path: Path) -> None:
    index = make_index(tmp_path / "prepare", num_images=1, num_classes=NUM_CLASSES)
    (path,) = make_members(tmp_path / "a", index, {"one": (1, 3.0)})
    assert fuse_files(tmp_path, [path], selection="greedy").figures["selection"] == "none"


def test_figures_are_those_of_the_files(tmp_path: Path, index: ImageIndex) -> None:
    paths = make_members(tmp_path / "a", index)
    figures = fuse_files(tmp_path, paths).figures
    assert figures == json.loads((tmp_path / "out" / "fused.json").read_text())
    labels = index.labels
    ranking = rank_scores(read_scores(tmp_path / "out" / "scores-fused.npy").array, labels)
    for k in (1, 5):
        error = figures["errors"][f"top{k}"]
        assert error["percent"] == pytest.approx(100 * ranking.errors(k) / NUM_IMAGES)
        assert error["low"] < error["percent"] < error["high"]
    predictions = []
    for path, member in zip(paths, figures["members"], strict=True):
        alone = rank_scores(read_scores(path).array, labels)
        predictions.append(alone.predicted)
        assert member["weight"] == pytest.approx(1 / 3, abs=1e-6)
        assert member["alone"]["top1"]["percent"] == pytest.approx(100 * alone.errors(1) / NUM_IMAGES)
    assert figures["best_member"] == {"top1": 1, "top5": 1}
    differing = 100 * (predictions[0] != predictions[2]).mean()
    assert figures["disagreement_percent"][0][2] == figures["disagreement_percent"][2][0] == pytest.approx(differing)
    assert figures["disagreement_percent"][1][1] == 0


def test_the_best_member_of_each_error_is_the_one_with_the_fewest_of_it(tmp_path: Path, index: ImageIndex) -> None:
    """One member is right more often at once, the other within five predictions."""
    images = np.arange(NUM_IMAGES)
    paths = []
    for plan, share, otherwise in (("broad", 0.4, 2), ("sure", 0.6, 7)):
        ranks = np.where(images < share * NUM_IMAGES, 0, otherwise)
        scores = -((np.arange(NUM_CLASSES) - (index.labels - ranks)[:, None]) % NUM_CLASSES)
        paths.append(write_scores(tmp_path / "a", plan, scores.astype(np.float16), index))
    figures = fuse_files(tmp_path, paths, member_weights=(3.0, 1.0)).figures
    assert figures["best_member"] == {"top1": 1, "top5": 0}
    alone = [member["alone"] for member in figures["members"]]
    for k, best in figures["best_member"].items():
        gain = alone[best][k]["percent"] - figures["errors"][k]["percent"]
        assert figures["gain_over_best_member"][k]["percent"] == pytest.approx(gain, abs=1e-5)
    assert figures["gain_over_best_member"]["top1"]["percent"] < 0


def test_gain_of_a_member_is_what_its_absence_costs(tmp_path: Path, index: ImageIndex) -> None:
    paths = make_members(tmp_path / "a", index)
    figures = fuse_files(tmp_path, paths).figures
    without = fuse_files(tmp_path, [paths[0], paths[2]], "without").figures
    cost = without["errors"]["top1"]["percent"] - figures["errors"]["top1"]["percent"]
    # The gain is counted before the fused scores are rounded to float16.
    assert figures["members"][1]["gain"]["top1"]["percent"] == pytest.approx(cost, abs=100 / NUM_IMAGES)
    assert cost > 3
    assert fuse_files(tmp_path, paths[:1], "alone").figures["members"][0]["gain"] is None


def test_no_image_is_judged_with_weights_that_it_helped_to_choose(tmp_path: Path, index: ImageIndex) -> None:
    paths = make_members(tmp_path / "a", index)
    figures = fuse_files(tmp_path, paths, selection="greedy").figures
    first, second = (half["weights"] for half in figures["halves"])
    assert sum(half["images"] for half in figures["halves"]) == NUM_IMAGES
    means = [member["weight"] for member in figures["members"]]
    assert means == pytest.approx([(one + other) / 2 for one, other in zip(first, second, strict=True)], abs=1e-5)
    # Spoiling the labels of the first half's images changes the second half's weights, not its own.
    is_second = stratified_halves(index.labels, 2017)
    spoilt = {}
    for number, path in enumerate(paths):
        array = np.array(read_scores(path).array)
        array[~is_second] = np.roll(array[~is_second], number, axis=1)
        spoilt[path] = write_scores(tmp_path / "spoilt", path.stem.removeprefix("scores-"), array, index)
    again = fuse_files(tmp_path, list(spoilt.values()), "again", selection="greedy").figures
    assert again["halves"][0]["weights"] == first
    assert again["halves"][1]["weights"] != second


def test_a_fusion_is_a_member_again_and_finds_its_labels(tmp_path: Path, index: ImageIndex) -> None:
    paths = make_members(tmp_path / "a", index)
    fuse_files(tmp_path, paths[:2], "first")
    members = read_members([*find_scores(tmp_path / "first", no_runs), paths[2]])
    found, prepared = find_index(members, None)
    assert (found.digest, prepared) == (index.digest, tmp_path / "prepare")
    assert [member.name for member in members] == ["fused", "three"]


def test_contest_files_come_back_from_score_with_the_same_error(tmp_path: Path, index: ImageIndex) -> None:
    figures = fuse_files(tmp_path, make_members(tmp_path / "a", index)).figures
    assert figures["contest_files"] == ["submission-2012.txt", "submission-2014.txt"]
    truth = np.zeros(NUM_IMAGES, np.int64)
    for position, name in enumerate(index.names):
        label = int(index.labels[position])
        truth[int(name[-13:-5]) - 1] = index.classes[label].ilsvrc2012_id or 0
    for name, form in (("submission-2012.txt", "2012"), ("submission-2014.txt", "2014")):
        predictions = read_predictions(tmp_path / "out" / name, None, NUM_CLASSES)
        assert (predictions.form, predictions.ragged) == (form, 0)
        errors = flat_errors(predictions, truth, None, TABLE).all_images
        assert 100 * errors[0] == pytest.approx(figures["errors"]["top1"]["percent"], abs=1e-5)
        assert 100 * errors[4] == pytest.approx(figures["errors"]["top5"]["percent"], abs=1e-5)
    first = (tmp_path / "out" / "submission-2014.txt").read_text().splitlines()[0].split()
    position = list(index.names).index("ILSVRC2012_val_00000001.JPEG")
    assert first[1:5] == ["1", "1", str(100 + position), str(50 + position)]


def test_test_images_are_fused_with_the_weights_of_a_fusion(tmp_path: Path, index: ImageIndex) -> None:
    paths = make_members(tmp_path / "a", index)
    chosen = fuse_files(tmp_path, paths, "val", selection="greedy").figures
    test = make_index(tmp_path / "test" / "prepare", NUM_IMAGES, NUM_CLASSES, "imagenet", split="test")
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES
    tests = [
        write_scores(tmp_path / "b", plan, make_scores(labels, NUM_CLASSES, seed + 10, skill), test)
        for plan, (seed, skill) in reversed(PLANS.items())
    ]
    figures = fuse_files(tmp_path / "test", tests, weights_from=str(tmp_path / "val")).figures
    weights = {member["name"]: member["weight"] for member in figures["members"]}
    assert weights == pytest.approx({member["name"]: member["weight"] for member in chosen["members"]}, abs=1e-5)
    assert "errors" not in figures
    assert len((tmp_path / "test" / "out" / "submission-2012.txt").read_text().splitlines()) == NUM_IMAGES
    with pytest.raises(UserError, match=r"fuse\.selection: test images have no labels to choose on"):
        fuse_files(tmp_path / "test", tests, selection="greedy")
    with pytest.raises(UserError, match=r"fuse\.weights_from: .*fused\.json: its member .* is missing here"):
        fuse_files(tmp_path / "test", tests[:-2], weights_from=str(tmp_path / "val"))
    with pytest.raises(
        UserError, match=r"fuse\.member_weights: must be 3 numbers, one for each member: three, two, one"
    ):
        fuse_files(tmp_path / "test", tests, member_weights=(1.0, 2.0))


def test_chosen_weights_are_not_judged_on_the_images_they_were_chosen_on(tmp_path: Path, index: ImageIndex) -> None:
    paths = make_members(tmp_path / "a", index)
    fuse_files(tmp_path, paths, "chosen", selection="greedy")
    fuse_files(tmp_path, paths, "equal")
    with pytest.raises(UserError, match=r"the weights in .*chosen/fused\.json were chosen on these very images"):
        fuse_files(tmp_path, paths, weights_from=str(tmp_path / "chosen"))
    assert fuse_files(tmp_path, paths, weights_from=str(tmp_path / "equal")).figures["errors"]


def test_no_contest_files_for_other_images_or_some_of_them(tmp_path: Path) -> None:
    for name, count, note in (
        ("folder", NUM_IMAGES, "no contest files: data.dataset is folder, not imagenet"),
        ("imagenet", NUM_IMAGES - 8, "no contest files: they need a line for each of the 120 val images, and .* 112"),
    ):
        place = tmp_path / f"{name}-{count}"
        other = make_index(place / "prepare", count, NUM_CLASSES, name)
        figures = fuse_files(place, make_members(place / "a", other)).figures
        assert figures["contest_files"] == []
        assert re.match(note, figures["contest_files_note"])
        assert not list((place / "out").glob("submission*"))
