from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.reporting.class_changes import compare

COLUMNS = "label\tfolder\twords\timages\ttop1_errors\ttop5_errors"


def write_evaluation(folder: Path, *errors: int, images: int = 50, plans: tuple[str, ...] = ("c",)) -> Path:
    folder.mkdir()
    lines = [f"{label}\tn{label}\tword {label}\t{images}\t{count}\t0" for label, count in enumerate(errors)]
    for plan in plans:
        (folder / f"per-class-{plan}.tsv").write_text("\n".join([COLUMNS, *lines]) + "\n")
    results = {"plans": [{"name": plan, "per_class": f"per-class-{plan}.tsv"} for plan in plans]}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_classes_that_gained_and_lost_are_told_the_largest_change_first(tmp_path: Path) -> None:
    other, own = write_evaluation(tmp_path / "b", 10, 10, 10, 10), write_evaluation(tmp_path / "a", 9, 5, 10, 20)
    found = compare(Path("runs/b"), other, own)
    assert [(change.now.label, change.percent) for change in found.better] == [(1, -10), (0, -2)]
    assert [(change.now.label, change.percent) for change in found.worse] == [(3, 20)]
    assert (found.unchanged, found.classes, found.run, found.plan) == (1, 4, "runs/b", "c")


def test_the_first_plan_that_both_runs_have_is_compared(tmp_path: Path) -> None:
    other = write_evaluation(tmp_path / "b", 3, plans=("z", "d", "c"))
    own = write_evaluation(tmp_path / "a", 1, plans=("x", "c", "d"))
    assert compare(Path("runs/b"), other, own).plan == "c"


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    own = write_evaluation(tmp_path / "a", 1, 2)
    other_plans = write_evaluation(tmp_path / "plans", 1, 2, plans=("x", "y"))
    with pytest.raises(UserError, match=r"runs/b has no errors under a plan of this run, c \(it has: x, y\)"):
        compare(Path("runs/b"), other_plans, own)
    with pytest.raises(UserError, match=r"report\.compare: runs/b was evaluated on other classes or images"):
        compare(Path("runs/b"), write_evaluation(tmp_path / "classes", 1, 2, 3), own)
    with pytest.raises(UserError, match="other classes or images"):
        compare(Path("runs/b"), write_evaluation(tmp_path / "images", 1, 2, images=49), own)
