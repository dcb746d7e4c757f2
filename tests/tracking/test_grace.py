from __future__ import annotations

from pipeline.tracking.grace import GraceCheck, grace_seconds


def notes(measured_seconds: float | None, *events: dict[str, object]) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    check = GraceCheck(measured_seconds, 60, lambda text, level: told.append((level, text)))
    for event in events:
        check(event)
    return told


def test_a_stage_that_comes_back_tells_at_its_start_and_only_once() -> None:
    told = notes(5.25, {"kind": "checkpoint", "seconds": 9.0})
    assert told == [("info", "a checkpoint takes 5.2 s, the warning comes 60 s before the end")]


def test_a_first_attempt_tells_with_its_first_checkpoint() -> None:
    told = notes(None, {"kind": "train"}, *({"kind": "checkpoint", "seconds": float(took)} for took in (30, 7)))
    assert told == [("info", "a checkpoint takes 30 s, the warning comes 60 s before the end")]


def test_what_does_not_fit_is_a_warning_that_says_what_would() -> None:
    ((level, text),) = notes(31.0)
    assert level == "warning"
    assert "a checkpoint takes 31 s" in text
    assert text.endswith("raise warning_seconds of the profile to at least 62")


def test_nobody_is_told_of_a_warning_that_nobody_promised() -> None:
    assert grace_seconds({}) is None
    assert grace_seconds({"SENET154_WARNING_SECONDS": "300"}) == 300
