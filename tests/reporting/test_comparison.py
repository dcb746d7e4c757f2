from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.reporting.class_errors import ClassErrors
from pipeline.reporting.comparison import compare

COLUMNS = "label\tfolder\twords\timages\ttop1_errors\ttop5_errors"


def rows(*errors: int) -> tuple[ClassErrors, ...]:
    return tuple(ClassErrors(label, f"n{label}", f"word {label}", 50, count, 0) for label, count in enumerate(errors))


def write_evaluation(folder: Path, *errors: int, images: int = 50) -> Path:
    lines = [f"{label}\tn{label}\tword\t{images}\t{count}\t0" for label, count in enumerate(errors)]
    (folder / "per-class-c.tsv").write_text("\n".join([COLUMNS, *lines]) + "\n")
    (folder / "results.json").write_text(json.dumps({"plans": [{"name": "c", "per_class": "per-class-c.tsv"}]}))
    return folder


def test_classes_that_gained_and_lost_are_told_the_largest_change_first(tmp_path: Path) -> None:
    found = compare(Path("runs/b"), write_evaluation(tmp_path, 10, 10, 10, 10), "c", rows(9, 5, 10, 20))
    assert [(change.now.label, change.percent) for change in found.better] == [(1, -10), (0, -2)]
    assert [(change.now.label, change.percent) for change in found.worse] == [(3, 20)]
    assert (found.unchanged, found.classes, found.run, found.plan) == (1, 4, "runs/b", "c")


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    evaluate = write_evaluation(tmp_path, 1, 2)
    with pytest.raises(UserError, match=r"report\.compare: runs/b has no errors under the plan 'x' \(it has: c\)"):
        compare(Path("runs/b"), evaluate, "x", rows(1, 2))
    with pytest.raises(UserError, match=r"report\.compare: runs/b was evaluated on other classes or images"):
        compare(Path("runs/b"), evaluate, "c", rows(1, 2, 3))
    with pytest.raises(UserError, match="other classes or images"):
        compare(Path("runs/b"), write_evaluation(tmp_path, 1, 2, images=49), "c", rows(1, 2))
