from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking.events import EVENTS, Event, EventLog, read_events, read_last_events
from tests.conftest import REPOSITORY


def steps(directory: Path) -> list[int]:
    return [event["global_step"] for event in read_events(directory, "train")]


def test_events_are_one_json_object_a_line_with_kind_and_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.write("train", global_step=1, loss=0.5)
    log.close()
    (line,) = (tmp_path / EVENTS).read_text().splitlines()
    assert list(json.loads(line)) == ["kind", "time", "global_step", "loss", "number", "crc"]
    (event,) = read_events(tmp_path)
    assert event.pop("time") > 0
    assert event == {"kind": "train", "global_step": 1, "loss": 0.5}


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
    saved = json.loads(json.dumps(log.position()))
    log.write("train", global_step=2)
    log.close()
    log = EventLog(tmp_path)
    log.rewind(saved)
    log.write("train", global_step=2)
    log.write("train", global_step=3)
    log.close()
    assert steps(tmp_path) == [1, 2, 3]
    log = EventLog(tmp_path)
    log.rewind(None)
    log.close()
    assert steps(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline.tracking.events import EVENTS, EventLog
directory = Path(sys.argv[1])
log = EventLog(directory, [lambda event: print(event["text"]) if event["kind"] == "note" else None])
log.write("train", global_step=1)
resource.setrlimit(resource.RLIMIT_FSIZE, ((directory / EVENTS).stat().st_size + 20, -1))
for step in range(2, 5):
    log.write("train", global_step=step)
print(log.position()["missing"], "missing")
if sys.argv[2] == "lifted":
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    log.write("train", global_step=5)
log.close()
"""


@pytest.mark.parametrize("ending", ["lifted", "for good"])
def test_a_size_limit_inside_a_line_is_reported_once_and_ends_nothing(tmp_path: Path, ending: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path), ending]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    path = tmp_path / EVENTS
    told = [f"{path}: File too large; 1 event waits to be written, with all that follow; going on", "3 missing"]
    if ending == "for good":
        told.append(f"{path}: 3 of this start's events could not be written")
    assert (done.returncode, done.stdout.splitlines()) == (0, told), done.stderr
    assert steps(tmp_path) == ([1, 2, 3, 4, 5] if ending == "lifted" else [1])


def test_damage_is_shown_to_the_listeners_as_a_warning_and_skipped_by_readers(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", global_step=step)
    log.close()
    content = bytearray((tmp_path / EVENTS).read_bytes())
    content[content.index(b"\n") + 10] ^= 4
    (tmp_path / EVENTS).write_bytes(content)
    assert steps(tmp_path) == [1, 3]
    assert [event["global_step"] for event in read_last_events(tmp_path)] == [1, 3]
    heard = []
    EventLog(tmp_path, [heard.append]).close()
    assert [(event["level"], event["text"]) for event in heard] == [
        ("warning", f"{tmp_path / EVENTS}:2: a damaged line, set aside in {EVENTS}.damaged")
    ]


def test_an_emptied_record_is_reported_once_and_the_stage_goes_on(tmp_path: Path) -> None:
    heard: list[Event] = []
    log = EventLog(tmp_path, [heard.append])
    log.write("train", global_step=1)
    (tmp_path / EVENTS).write_bytes(b"")
    for step in (2, 3):
        log.write("train", global_step=step)
    log.close()
    told = [event["text"] for event in heard if event["kind"] == "note"]
    assert told == [f"{tmp_path / EVENTS}: emptied, cut or replaced by another program; going on with what it left"]
    assert steps(tmp_path) == [2, 3]


def test_the_newest_events_are_read_without_the_whole_record(tmp_path: Path) -> None:
    assert read_last_events(tmp_path) == []
    log = EventLog(tmp_path)
    for step in range(1, 2001):
        log.write("train", global_step=step)
    log.close()
    last = [event["global_step"] for event in read_last_events(tmp_path)]
    assert last == list(range(last[0], 2001))
    assert len(last) < 1500


def test_ranks_without_a_directory_write_nothing_and_can_do_everything(tmp_path: Path) -> None:
    log = EventLog(None)
    log.write("train", global_step=1)
    log.rewind(log.position())
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_events_has_none(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []
