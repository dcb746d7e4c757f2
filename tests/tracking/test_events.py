from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tracking.events import EVENTS, EventLog, read_events


def steps(directory: Path) -> list[int]:
    return [event["global_step"] for event in read_events(directory, "train")]


def test_events_are_one_json_object_a_line_with_kind_and_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("train", global_step=1, loss=0.5)
    log.close()
    (line,) = (tmp_path / EVENTS).read_text().splitlines()
    fields = json.loads(line)
    assert fields.pop("time") > 0
    assert fields == {"kind": "train", "global_step": 1, "loss": 0.5}


def test_an_event_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("train", global_step=1)
    assert steps(tmp_path) == [1], "it must survive a kill -9 that comes next"
    log.close()


def test_listeners_hear_what_is_written_and_what_is_only_shown(tmp_path: Path) -> None:
    heard = []
    log = EventLog(tmp_path, [heard.append])
    log.write("train", global_step=1)
    log.show("note", level="info", text="hello")
    log.close()
    assert [event["kind"] for event in heard] == ["train", "note"]
    assert [event["kind"] for event in read_events(tmp_path)] == ["train"]


def test_a_rewound_log_has_each_step_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("train", global_step=1)
    saved = log.position()
    log.write("train", global_step=2)
    log.close()
    log = EventLog(tmp_path)
    log.rewind(saved)
    log.write("train", global_step=2)
    log.write("train", global_step=3)
    log.close()
    assert steps(tmp_path) == [1, 2, 3]


def test_rewinding_past_the_end_adds_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("train", global_step=1)
    size = log.position()
    log.rewind(size + 1000)
    log.write("train", global_step=2)
    log.close()
    assert steps(tmp_path) == [1, 2]
    assert b"\0" not in (tmp_path / EVENTS).read_bytes()


@pytest.mark.parametrize("torn", [b'{"kind": "train", "glo', b"{", b'{"kind": "train", "global_step": 9}'])
def test_a_line_that_a_kill_tore_is_removed_and_never_read(tmp_path: Path, torn: bytes) -> None:
    log = EventLog(tmp_path)
    log.write("train", global_step=1)
    log.close()
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(torn)
    assert steps(tmp_path) == [1]
    log = EventLog(tmp_path)
    log.write("train", global_step=2)
    log.close()
    assert steps(tmp_path) == [1, 2]


def test_a_torn_first_line_leaves_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(b'{"kind": "tr')
    EventLog(tmp_path).close()
    assert (tmp_path / EVENTS).read_bytes() == b""


def test_ranks_without_a_directory_write_nothing_and_can_do_everything(tmp_path: Path) -> None:
    log = EventLog(None)
    log.write("train", global_step=1)
    log.rewind(log.position())
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_events_has_none(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []
