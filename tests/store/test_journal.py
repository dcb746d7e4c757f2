"""Journals under full disks, kills and damage."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store.journal import Journal, JournalTail, append_record, decode, encode, read_journal, read_tail
from tests.conftest import REPOSITORY

NAME = "events.jsonl"


def write(path: Path, steps: range) -> None:
    journal = Journal(path)
    for step in steps:
        assert journal.append({"step": step}) is None
    journal.close()


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_journal(path)]


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_a_line_is_json_with_a_number_and_a_checksum_that_readers_do_not_see(tmp_path: Path) -> None:
    journal = Journal(tmp_path / NAME)
    journal.append({"text": "größer\udcff\n", "values": [1.5, None]})
    (line,) = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    assert list(json.loads(line)) == ["text", "values", "number", "crc"]
    assert list(read_journal(tmp_path / NAME)) == [{"text": "größer\udcff\n", "values": [1.5, None]}]
    journal.close()


def test_a_record_is_there_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / NAME)
    journal.append({"step": 1})
    assert steps(tmp_path / NAME) == [1], "it must survive a kill -9 that comes next"
    journal.close()


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline.store.journal import Journal
journal = Journal(Path(sys.argv[1]), print)
size = Path(sys.argv[1]).stat().st_size
for step in range(1, 11):
    if step == 4:  # strikes in the middle of the next line
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path(sys.argv[1]).stat().st_size + 20, -1))
    if step == 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    error = journal.append({"step": step})
    print(step, len(journal.pending), None if error is None else (error.strerror, error.filename))
journal.close()
"""


def test_a_limit_inside_a_line_loses_nothing_once_it_is_lifted(tmp_path: Path) -> None:
    path = tmp_path / NAME
    done = child(LIMITED, path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[2] == "3 0 None"
    assert told[3] == f"4 1 ('File too large', '{path}')"
    assert told[6] == f"7 4 ('File too large', '{path}')"
    assert told[7] == "8 0 None"
    assert steps(path) == list(range(1, 11))
    assert all(decode(line) for line in path.read_bytes().splitlines(keepends=True))


MISSING = """
import json, resource, sys
from pathlib import Path
from pipeline.store.journal import Journal
path = Path(sys.argv[1])
journal = Journal(path)
for step in range(1, 4):
    journal.append({"step": step})
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, -1))
for step in range(4, 6):
    journal.append({"step": step})
print(json.dumps(journal.position()))
if sys.argv[2] == "lifted":
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    journal.append({"step": 6})
journal.close()
"""


def test_a_position_says_what_is_missing_and_the_next_start_tells_of_it(tmp_path: Path) -> None:
    path = tmp_path / NAME
    position = json.loads(child(MISSING, path, "for good").stdout)
    assert position["missing"] == 2
    assert steps(path) == [1, 2, 3]
    told: list[str] = []
    journal = Journal(path, told.append)
    journal.rewind(position)
    assert told == [f"{path}: missing before the checkpoint: 2 records that could not be written; going on without"]
    journal.append({"step": 6})
    next_position = journal.position()
    journal.close()
    assert next_position["missing"] == 0
    journal = Journal(path, told.append)
    journal.rewind(next_position)
    assert len(told) == 1, "said once"
    assert steps(path) == [1, 2, 3, 6]
    journal.rewind(position)
    assert steps(path) == [1, 2, 3], "what came after the older position is known as such, whatever is missing"
    journal.close()


def test_what_was_missing_at_a_checkpoint_and_written_later_is_kept_by_a_rewind(tmp_path: Path) -> None:
    path, told = tmp_path / NAME, []
    position = json.loads(child(MISSING, path, "lifted").stdout)
    assert (position["missing"], steps(path)) == (2, [1, 2, 3, 4, 5, 6])
    journal = Journal(path, told.append)
    journal.rewind(position)
    journal.close()
    assert (steps(path), told) == ([1, 2, 3, 4, 5], [])


@pytest.mark.parametrize("position_of", [3, 0])
def test_a_rewound_journal_has_each_step_once(tmp_path: Path, position_of: int) -> None:
    journal, told = Journal(tmp_path / NAME), []
    for step in range(1, position_of + 1):
        journal.append({"step": step})
    position = json.loads(json.dumps(journal.position()))
    for step in range(position_of + 1, 7):
        journal.append({"step": step})
    journal.close()
    journal = Journal(tmp_path / NAME, told.append)
    journal.rewind(position)
    for step in range(position_of + 1, 9):
        journal.append({"step": step})
    journal.close()
    assert steps(tmp_path / NAME) == list(range(1, 9))
    assert told == []


def test_an_adopted_journal_keeps_its_numbers_and_the_gaps_of_damaged_lines(tmp_path: Path) -> None:
    other, path = tmp_path / "other.jsonl", tmp_path / NAME
    write(other, range(1, 4))
    first, second, third = other.read_bytes().splitlines(keepends=True)
    other.write_bytes(first + second.replace(b"2", b"3", 1) + third)
    journal = Journal(other)
    journal.append({"step": 4})
    position = journal.position()
    journal.append({"step": 5})
    journal.close()
    write(path, range(100, 103))
    warnings: list[str] = []
    journal = Journal(path, warnings.append)
    journal.adopt(other)
    assert path.read_bytes() == other.read_bytes()
    journal.append({"step": 6})
    assert journal.position()["number"] == 6
    journal.rewind(position)
    journal.close()
    assert warnings == []
    assert steps(path) == [1, 3, 4]


def test_rewinding_to_nothing_begins_anew(tmp_path: Path) -> None:
    write(tmp_path / NAME, range(1, 4))
    journal = Journal(tmp_path / NAME)
    journal.rewind(None)
    journal.append({"step": 7})
    journal.close()
    assert steps(tmp_path / NAME) == [7]


@pytest.mark.parametrize(
    ("left", "kept"), [(b"", []), (b"a third", [1, 2]), (b"half a line", [1, 2])], ids=["emptied", "cut", "torn"]
)
def test_a_journal_that_was_shortened_between_two_starts_is_reported_once(
    tmp_path: Path, left: bytes, kept: list[int]
) -> None:
    path, told = tmp_path / NAME, []
    write(path, range(1, 7))
    journal = Journal(path)
    position = journal.position()
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        {b"": b"", b"a third": b"".join(lines[:2]), b"half a line": b"".join(lines[:2]) + lines[2][:9]}[left]
    )
    journal = Journal(path, told.append)
    journal.rewind(position)
    journal.append({"step": 7})
    journal.close()
    missing = 6 - len(kept)
    assert told == [
        f"{path}: missing before the checkpoint: {missing} records that another program removed; going on without"
    ]
    assert steps(path) == [*kept, 7]


def test_another_journal_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    journal = Journal(tmp_path / NAME)
    journal.append({"step": 1})
    position = journal.position()
    journal.close()
    (tmp_path / NAME).unlink()
    write(tmp_path / NAME, range(5, 7))
    journal = Journal(tmp_path / NAME, told.append)
    journal.rewind(position)
    journal.close()
    assert told == [f"{tmp_path / NAME}: not the record that the checkpoint was written with; going on with it"]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """As an editor saves."""
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.rename(path)


@pytest.mark.parametrize(
    ("change", "kept"), [(empty, [3]), (tear, [1, 3]), (delete, [3]), (replace, [1, 2, 3])], ids=lambda it: str(it)
)
def test_a_journal_that_is_changed_under_its_writer_is_told_once_and_goes_on(
    tmp_path: Path, change: object, kept: list[int]
) -> None:
    path, told = tmp_path / NAME, []
    journal = Journal(path, told.append)
    journal.append({"step": 1})
    journal.append({"step": 2})
    assert callable(change)
    change(path)
    assert journal.append({"step": 3}) is None
    assert told == [f"{path}: emptied, cut or replaced by another program; going on with what it left"]
    assert steps(path) == kept
    position = journal.position()
    journal.append({"step": 4})
    change(path)
    journal.append({"step": 5})
    journal.close()
    assert len(told) == 1, "said once"
    # Steps after the checkpoint never stand there twice, whatever is gone before it.
    journal = Journal(path)
    journal.rewind(position)
    journal.append({"step": 4})
    journal.close()
    assert steps(path) in ([*kept, 4], [*kept[:-1], 4], [4])


def test_a_folder_that_is_deleted_under_its_writer_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    journal = Journal(folder / NAME)
    journal.append({"step": 1})
    (folder / NAME).unlink()
    folder.rmdir()
    error = journal.append({"step": 2})
    assert isinstance(error, FileNotFoundError)
    assert journal.position()["missing"] == 1
    journal.rewind(None)
    assert journal.pending == []
    journal.close()


@pytest.mark.parametrize("torn", [b'{"step": 9, "nu', b"{", b'{"step": 9, "crc": "00000000"}', b"\0\0\0\0"])
def test_a_line_that_a_kill_tore_is_cut_off_silently(tmp_path: Path, torn: bytes) -> None:
    path, told = tmp_path / NAME, []
    write(path, range(1, 3))
    with path.open("ab") as file:
        file.write(torn)
    assert steps(path) == [1, 2]
    journal = Journal(path, told.append)
    journal.append({"step": 3})
    journal.close()
    assert (steps(path), told) == ([1, 2, 3], [])


def test_a_flipped_bit_is_named_set_aside_and_costs_one_line(tmp_path: Path) -> None:
    path = tmp_path / NAME
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(100):
        path.unlink(missing_ok=True)
        write(path, range(1, 9))
        content = bytearray(path.read_bytes())
        place = chance.choice([i for i, byte in enumerate(content) if byte != ord("\n")])
        bit = chance.choice([bit for bit in range(8) if content[place] ^ (1 << bit) != ord("\n")])
        content[place] ^= 1 << bit
        path.write_bytes(content)
        line = content[:place].count(b"\n") + 1
        expected = [step for step in range(1, 9) if step != line]
        assert steps(path) == expected, "readers skip it"
        damaged = path.read_bytes().splitlines()[line - 1]
        told: list[str] = []
        journal = Journal(path, told.append)
        journal.append({"step": 9})
        journal.close()
        assert told == [f"{path}:{line}: a damaged line, set aside in {NAME}.damaged"]
        assert steps(path) == [*expected, 9]
        aside = path.with_name(f"{NAME}.damaged")
        assert aside.read_bytes() == damaged + b"\n"
        aside.unlink()
        Journal(path, told.append).close()
        assert len(told) == 1, "said once"


def test_a_file_of_anything_is_told_in_one_line_and_stops_nothing(tmp_path: Path) -> None:
    path, told = tmp_path / NAME, []
    content = random.Random(3).randbytes(100_000)
    path.write_bytes(content)
    journal = Journal(path, told.append)
    journal.append({"step": 1})
    journal.close()
    more = sum(bool(line.strip()) for line in content.split(b"\n")[:-1]) - 1
    assert told == [f"{path}:1: a damaged line (and {more:,} more), set aside in {NAME}.damaged"]
    assert steps(path) == [1]


def test_a_damaged_newest_line_is_reported_once_and_not_again_by_the_rewind(tmp_path: Path) -> None:
    path, told = tmp_path / NAME, []
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.append({"step": step})
    position = journal.position()
    journal.close()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    journal = Journal(path, told.append)
    journal.rewind(position)
    journal.append({"step": 4})
    journal.close()
    assert told == [f"{path}:3: a damaged line, set aside in {NAME}.damaged"]
    assert steps(path) == [1, 2, 4]


KILLED = """
import sys
from pathlib import Path
from pipeline.store.journal import Journal
journal = Journal(Path(sys.argv[1]))
print("begins", flush=True)
step = 0
while True:
    step += 1
    journal.append({"step": step, "padding": "x" * 5000})
"""


def test_kills_in_the_middle_of_writing_leave_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / NAME
    count = 0
    for _ in range(5):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.02 + count % 7 / 1000)
            process.send_signal(signal.SIGKILL)
        told: list[str] = []
        Journal(path, told.append).close()
        written = steps(path)
        assert written == list(range(1, len(written) + 1))
        assert told == []
        count += len(written)
    assert count > 0


APPENDING = """
import sys
from pathlib import Path
from pipeline.store.journal import append_record
for number in range(200):
    append_record(Path(sys.argv[1]), {"writer": int(sys.argv[2]), "step": number})
"""


def test_several_writers_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    commands = [[sys.executable, "-c", APPENDING, str(path), str(writer)] for writer in range(4)]
    writers = [subprocess.Popen(command, cwd=REPOSITORY) for command in commands]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    records = list(read_journal(path))
    for writer in range(4):
        assert [record["step"] for record in records if record["writer"] == writer] == list(range(200))


APPENDING_TO_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from pipeline.store.journal import append_record
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, -1))
try:
    append_record(path, {"step": 2})
except OSError as error:
    print(error.strerror, error.filename)
"""


def test_a_record_of_several_writers_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    append_record(path, {"step": 1})
    before = path.read_bytes()
    assert child(APPENDING_TO_A_FULL_DISK, path).stdout == f"File too large {path}\n"
    assert path.read_bytes() == before
    with path.open("ab") as file:
        file.write(b'{"step": 2, "torn by a ki')
    append_record(path, {"step": 3})
    assert steps(path) == [1, 3]


def test_a_tail_has_the_newest_whole_records(tmp_path: Path) -> None:
    path = tmp_path / NAME
    assert read_tail(path) == []
    write(path, range(1, 1001))
    with path.open("ab") as file:
        file.write(b'{"torn')
    tail = [record["step"] for record in read_tail(path, 4096)]
    assert tail == list(range(tail[0], 1001))
    assert 50 < len(tail) < 100
    assert len(read_tail(path)) == 1000


def test_who_follows_a_journal_reads_each_record_once(tmp_path: Path) -> None:
    tail = JournalTail(tmp_path / NAME)
    assert list(tail.read()) == []
    journal = Journal(tmp_path / NAME)
    for step in (1, 2):
        journal.append({"step": step})
    position = journal.position()
    assert [record["step"] for record in tail.read()] == [1, 2]
    assert list(tail.read()) == []
    for step in (3, 4):
        journal.append({"step": step})
    journal.close()
    line = encode({"step": 5})
    with (tmp_path / NAME).open("ab") as file:
        file.write(line[:9])
        file.flush()
        assert [record["step"] for record in tail.read()] == [3, 4]
        file.write(line[9:])
    assert [record["step"] for record in tail.read()] == [5]
    journal = Journal(tmp_path / NAME)
    journal.rewind(position)
    for step in (3, 40, 50):
        journal.append({"step": step})
    assert [record["step"] for record in tail.read()] == [1, 2, 3, 40, 50], "a rewound journal is read from its start"
    journal.rewind(None)
    assert list(tail.read()) == []
    journal.append({"step": 1})
    assert [record["step"] for record in tail.read()] == [1]
    journal.close()
