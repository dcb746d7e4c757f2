from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from pipeline.ground.ranks import Ranks
from pipeline.running.attempts import (
    ATTEMPTS,
    Attempt,
    Outcome,
    known_places,
    note_end,
    note_images,
    note_start,
    read_attempts,
    read_outcome,
    read_records,
    seconds_of,
)
from pipeline.store.journal import append_record


def test_an_attempt_has_its_times_its_world_size_and_its_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 107.5, 200.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    note_start(tmp_path, Ranks(0, 0, 3))
    note_end(tmp_path, Outcome(EXIT_DONE, "done", 0))
    note_start(tmp_path, Ranks())
    first, second = read_attempts(tmp_path)
    assert (first.start, first.end, first.world_size) == (100.0, 107.5, 3)
    assert first.outcome == Outcome(EXIT_DONE, "done", 0)
    assert (second.start, second.end, second.outcome) == (200.0, None, None)


def test_an_attempt_that_seems_to_end_before_it_began_took_no_time() -> None:
    """The clocks of nodes differ."""
    assert seconds_of([Attempt(0.0, 1, end=7.5), Attempt(10.0, 1, end=6.0), Attempt(20.0, 1)]) == 7.5


def end_of(rank: int, code: int, text: str, folder: Path) -> None:
    append_record(
        folder / ATTEMPTS,
        {"kind": "end", "time": 1.0, "exit_code": code, "message": text, "rank": rank, "pid": rank, "host": "other"},
    )


def test_the_first_rank_that_ended_badly_says_why(tmp_path: Path) -> None:
    note_start(tmp_path, Ranks(0, 0, 3))
    end_of(2, EXIT_FAILED, "its card is gone", tmp_path)
    assert not note_end(tmp_path, Outcome(EXIT_FAILED, "connection closed", 0))
    assert read_outcome(tmp_path) == Outcome(EXIT_FAILED, "its card is gone", 2)
    assert read_attempts(tmp_path)[-1].outcome == Outcome(EXIT_FAILED, "its card is gone", 2)


def test_a_new_start_forgets_the_outcome_before(tmp_path: Path) -> None:
    note_start(tmp_path, Ranks())
    assert note_end(tmp_path, Outcome(EXIT_STOPPED, "stopped", 0))
    note_start(tmp_path, Ranks())
    assert read_outcome(tmp_path) is None


def test_an_attempt_that_fails_before_its_start_is_the_last_one(tmp_path: Path) -> None:
    note_start(tmp_path, Ranks(0, 0, 2))
    end_of(1, EXIT_STOPPED, "stopped", tmp_path)
    end_of(0, EXIT_STOPPED, "stopped", tmp_path)
    assert read_outcome(tmp_path) == Outcome(EXIT_STOPPED, "stopped", 1)
    assert note_end(tmp_path, Outcome(EXIT_USER_ERROR, "an input is damaged", 0))
    end_of(1, EXIT_FAILED, "connection closed", tmp_path)
    assert read_outcome(tmp_path) == Outcome(EXIT_USER_ERROR, "an input is damaged", 0)


def test_who_ends_before_it_has_started_is_found_among_the_new_lines(tmp_path: Path) -> None:
    note_start(tmp_path, Ranks())
    note_end(tmp_path, Outcome(EXIT_STOPPED, "stopped", 0))
    before = len(read_records(tmp_path))
    assert read_outcome(tmp_path, after=before) is None
    end_of(1, EXIT_FAILED, "no such device", tmp_path)
    assert read_outcome(tmp_path, after=before) == Outcome(EXIT_FAILED, "no such device", 1)


def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    note_start(tmp_path, Ranks())
    with (tmp_path / ATTEMPTS).open("ab") as file:
        file.write(b'{"kind": "end", "ti')
    note_start(tmp_path, Ranks(0, 0, 2))
    assert [attempt.world_size for attempt in read_attempts(tmp_path)] == [1, 2]


def test_the_places_that_any_attempt_of_a_run_has_checked_are_known(tmp_path: Path) -> None:
    for name in ("train-1", "evaluate-2"):
        (tmp_path / name).mkdir()
        note_images(tmp_path / name, "val", f"/images/{name}")
    assert known_places(tmp_path) == {("val", "/images/train-1"), ("val", "/images/evaluate-2")}


def test_a_directory_without_attempts_has_none(tmp_path: Path) -> None:
    assert read_attempts(tmp_path) == []
    assert read_outcome(tmp_path) is None
