from __future__ import annotations

import pytest

from pipeline.running.attempts import ATTEMPTS, Attempt, read_attempts, recorded_attempt


def test_a_attempt_has_its_times_its_processes_and_its_error(tmp_path, monkeypatch):
    clock = iter([100.0, 107.5, 200.0, 201.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    with recorded_attempt(tmp_path, world_size=3):
        pass

    def fail() -> None:
        with recorded_attempt(tmp_path, world_size=1):
            raise RuntimeError("it broke")

    with pytest.raises(RuntimeError, match="it broke"):
        fail()
    assert read_attempts(tmp_path) == [
        Attempt(100.0, 107.5, None, 3),
        Attempt(200.0, 201.0, "RuntimeError: it broke", 1),
    ]


def test_a_attempt_without_an_end_has_none_and_the_next_one_is_its_own(tmp_path):
    (tmp_path / ATTEMPTS).write_text('{"kind": "start", "time": 1.0, "world_size": 1}\n')
    with recorded_attempt(tmp_path, world_size=1):
        assert [attempt.end for attempt in read_attempts(tmp_path)] == [None, None]
    first, second = read_attempts(tmp_path)
    assert first.end is None
    assert second.end is not None


def test_what_a_full_disk_tore_is_left_out(tmp_path):
    (tmp_path / ATTEMPTS).write_text('{"kind": "start", "time": 1.0, "world_size": 1}\n{"kind": "end", "ti')
    assert read_attempts(tmp_path) == [Attempt(1.0, None, None, 1)]
    with recorded_attempt(tmp_path, world_size=2):
        assert [attempt.world_size for attempt in read_attempts(tmp_path)] == [1, 2]


def test_a_directory_without_attempts_has_none(tmp_path):
    assert read_attempts(tmp_path) == []
