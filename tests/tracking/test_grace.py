from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tracking.grace import GraceCheck, grace_seconds


def measured(directory: Path, seconds: float) -> Path:
    (directory / "checkpoints").mkdir()
    content = {"checkpoint": "step-00000004", "seconds": seconds, "bytes": 7}
    (directory / "checkpoints" / "latest.json").write_text(json.dumps(content))
    return directory


def notes(directory: Path, *events: dict[str, object]) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    check = GraceCheck(directory, 60, lambda text, level: told.append((level, text)))
    for event in events:
        check(event)
    return told


def test_a_stage_that_comes_back_tells_at_its_start_and_only_once(tmp_path: Path) -> None:
    told = notes(measured(tmp_path, 5.25), {"kind": "checkpoint", "seconds": 9.0})
    assert told == [("info", "a checkpoint takes 5.2 s, the warning comes 60 s before the end")]


def test_a_first_attempt_tells_with_its_first_checkpoint(tmp_path: Path) -> None:
    told = notes(tmp_path, {"kind": "train"}, *({"kind": "checkpoint", "seconds": float(took)} for took in (30, 7)))
    assert told == [("info", "a checkpoint takes 30.0 s, the warning comes 60 s before the end")]


def test_what_does_not_fit_is_a_warning_that_says_what_would(tmp_path: Path) -> None:
    ((level, text),) = notes(measured(tmp_path, 31.0))
    assert level == "warning"
    assert "a checkpoint takes 31.0 s" in text
    assert text.endswith("raise warning_seconds of the profile to at least 62")


@pytest.mark.parametrize("content", ["", "{}", '{"seconds": "?"}'])
def test_a_file_that_does_not_say_is_taken_for_no_measurement(content: str, tmp_path: Path) -> None:
    (measured(tmp_path, 1.0) / "checkpoints" / "latest.json").write_text(content)
    assert notes(tmp_path) == []


def test_nobody_is_told_of_a_warning_that_nobody_promised() -> None:
    assert grace_seconds({}) is None
    assert grace_seconds({"SENET154_WARNING_SECONDS": "300"}) == 300
