from __future__ import annotations

import pytest

from pipeline.runs.life import LIVES, Life, read_lives, recorded_life


def test_a_life_has_its_times_its_processes_and_its_error(tmp_path, monkeypatch):
    clock = iter([100.0, 107.5, 200.0, 201.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    with recorded_life(tmp_path, world_size=3):
        pass

    def fail() -> None:
        with recorded_life(tmp_path, world_size=1):
            raise RuntimeError("it broke")

    with pytest.raises(RuntimeError, match="it broke"):
        fail()
    assert read_lives(tmp_path) == [Life(100.0, 107.5, None, 3), Life(200.0, 201.0, "RuntimeError: it broke", 1)]


def test_a_life_without_an_end_has_none_and_the_next_one_is_its_own(tmp_path):
    (tmp_path / LIVES).write_text('{"kind": "start", "time": 1.0, "world_size": 1}\n')
    with recorded_life(tmp_path, world_size=1):
        assert [life.end for life in read_lives(tmp_path)] == [None, None]
    first, second = read_lives(tmp_path)
    assert first.end is None
    assert second.end is not None


def test_what_a_full_disk_tore_is_left_out(tmp_path):
    (tmp_path / LIVES).write_text('{"kind": "start", "time": 1.0, "world_size": 1}\n{"kind": "end", "ti')
    assert read_lives(tmp_path) == [Life(1.0, None, None, 1)]
    with recorded_life(tmp_path, world_size=2):
        assert [life.world_size for life in read_lives(tmp_path)] == [1, 2]


def test_a_directory_without_lives_has_none(tmp_path):
    assert read_lives(tmp_path) == []
