from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.differences import differing_keys
from pipeline.data.index import read_index
from pipeline.evaluation.metrics import rank_scores
from pipeline.ground.errors import UserError
from pipeline.reporting.finished_run import FinishedRun
from pipeline.reporting.side_by_side import SideBySide, side_by_side, validation_plot
from pipeline.tracking.events import EventLog
from tests.evaluation.ensemble_members import make_index, write_scores
from tests.reporting.example_run import CROP, make_config

CLASSES, IMAGES = 3, 60
COLUMNS = "label\tfolder\twords\timages\ttop1_errors\ttop5_errors"


def finished(
    folder: Path, *errors: int, plans: tuple[str, ...] = ("c",), images: int = IMAGES, **described: Any
) -> FinishedRun:
    """An evaluated run with so many errors in each class, those of its first images."""
    index = make_index(folder / "prepare", images, CLASSES)
    probabilities = np.full((images, CLASSES), 0.1)
    for label, count in enumerate(errors):
        of_class = np.flatnonzero(index.labels == label)
        probabilities[of_class[:count], (label + 1) % CLASSES] = 0.8
        probabilities[of_class[count:], label] = 0.8
    counted = np.bincount(index.labels)
    lines = [f"{label}\tn{label}\tword {label}\t{counted[label]}\t{count}\t0" for label, count in enumerate(errors)]
    results = []
    for plan in plans:
        (folder / f"per-class-{plan}.tsv").write_text("\n".join([COLUMNS, *lines]) + "\n")
        path = write_scores(folder, plan, np.log(probabilities).astype(np.float16), index, **described)
        counts = {"images": images, "top1_errors": sum(errors), "per_class": f"per-class-{plan}.tsv"}
        results.append({"name": plan, "scores": {"file": path.name}, **counts})
    (folder / "results.json").write_text(json.dumps({"plans": results}))
    return FinishedRun(f"runs/{folder.name}", make_config(folder), {"evaluate": folder})


def compared(*runs: FinishedRun) -> SideBySide:
    labels = read_index(runs[0].directories["evaluate"] / "prepare").labels
    return side_by_side(runs, {plan: rank_scores(runs[0].scores(plan).array, labels) for plan in runs[0].plans})


def test_every_run_is_shown_with_the_interval_of_its_difference_on_the_same_images(tmp_path: Path) -> None:
    found = compared(
        finished(tmp_path / "a", 5, 0, 0), finished(tmp_path / "b", 6, 0, 0), finished(tmp_path / "c", 20, 20, 0)
    )
    own, near, far = found.errors["c"]
    assert (own.difference, found.names) == (None, ("runs/a", "runs/b", "runs/c"))
    assert near.difference is not None
    assert far.difference is not None
    assert near.difference.percent == pytest.approx(100 / IMAGES)
    assert far.difference.percent == pytest.approx(3500 / IMAGES)
    # Five of the six errors are on the same images: resamples differ by the sixth image alone.
    assert near.difference.low == 0
    assert near.difference.high < 6
    assert (near.is_within_chance, far.is_within_chance) == (True, False)


def test_classes_that_differ_most_come_first(tmp_path: Path) -> None:
    found = compared(finished(tmp_path / "a", 9, 5, 7), finished(tmp_path / "b", 10, 15, 7))
    assert [[row.top1_errors for row in rows] for rows in found.classes] == [[5, 15], [9, 10]]
    assert (found.unchanged, found.num_classes, found.plan) == (1, 3, "c")


def test_each_plan_has_the_runs_that_were_evaluated_under_it(tmp_path: Path) -> None:
    found = compared(
        finished(tmp_path / "a", 1, 1, 1, plans=("x", "c", "d")),
        finished(tmp_path / "b", 1, 1, 1, plans=("z", "d", "c")),
    )
    assert {plan: [row.run for row in rows] for plan, rows in found.errors.items()} == {
        "x": [0],
        "c": [0, 1],
        "d": [0, 1],
    }
    assert found.plan == "c"


def test_images_of_other_names_have_no_interval_of_the_difference(tmp_path: Path) -> None:
    found = compared(finished(tmp_path / "a", 1, 1, 1), finished(tmp_path / "b", 1, 1, 1, images_sha256="other"))
    assert found.errors["c"][1].difference is None


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    own = finished(tmp_path / "a", 1, 2, 3)
    with pytest.raises(
        UserError,
        match=r"report\.compare: all runs must have errors under one plan of this run, c \(given runs/plans: x, y\)",
    ):
        side_by_side([own, finished(tmp_path / "plans", 1, 2, 3, plans=("x", "y"))], {})
    with pytest.raises(UserError, match=r"report\.compare: runs/images was evaluated on other classes or images"):
        side_by_side([own, finished(tmp_path / "images", 1, 2, 3, images=63)], {})


def test_only_keys_that_change_results_and_differ_are_shown(tmp_path: Path) -> None:
    recipe = make_config(tmp_path)
    other = make_config(
        tmp_path, name="other", optim={"lr": 0.1}, resources={"expected_images_per_second": 9.0},
        evaluate={"plans": [{"name": "c", "crops": [CROP]}]},
    )  # fmt: skip
    assert differing_keys([recipe, other, recipe]) == {
        "optim.lr": ("0.05", "0.1", "0.05"),
        "evaluate.plans": ("center32, flipped", "c", "center32, flipped"),
    }
    assert differing_keys([recipe, make_config(tmp_path, seed=7)]) == {"seed": ("2017", "7")}


def test_validation_is_plotted_if_two_runs_were_trained(tmp_path: Path) -> None:
    runs = [finished(tmp_path / name, 1, 1, 1) for name in "ab"]
    assert validation_plot(compared(*runs)) == ()
    trained = []
    for number, run in enumerate(runs):
        (tmp_path / f"train {number}").mkdir()
        log = EventLog(tmp_path / f"train {number}")
        for epoch in (1, 2):
            log.write("validation", global_step=epoch, epoch=epoch, top1_error_percent=(8 + number) / epoch)
        log.close()
        trained.append(FinishedRun(run.name, run.config, {**run.directories, "train": tmp_path / f"train {number}"}))
    (plot,) = validation_plot(compared(*trained))
    assert "this run 4.00 % at the end, 4.00 % at best; run 1 4.50 % at the end, 4.50 % at best" in plot.description
    assert plot.svg().count("this run") == 1
