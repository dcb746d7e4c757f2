"""Journals: one JSON object a line, each with a number and a checksum, only appended to or truncated.

A line is there whole or not at all. A damaged one is named once and moved to `<name>.damaged`; blanks take its place,
so the others keep their offsets. Readers skip it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.store.file import naming

Record = dict[str, Any]
Position = dict[str, Any]
"""A position in a journal: `number` and `crc` of its newest record, and how many up to there are `missing` because they
could not be written."""

_ENDING = re.compile(rb'(?:, "number": ([0-9]+))?(, "crc": "([0-9a-f]{8})"}\n)\Z')
_TAIL_BYTES = 65_536


class Journal:
    """A journal open for writing by one process, the holder of its folder's lock.

    A record that cannot be written is kept, and tried again with each later one.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        """Open or create the journal; calls `warn` for damaged lines, which are moved out of it."""
        self.path = path
        self.pending: list[bytes] = []
        """Lines that could not be written yet."""
        self._warn = warn
        self._number, self._crc, self._end = 0, "", 0
        self._has_told_of_change = False
        self._damaged = path.with_name(f"{path.name}.damaged")
        with naming(path):
            self._file = _open(path)
            self._mend()

    def append(self, record: Mapping[str, Any]) -> OSError | None:
        """Write the pending records and this one. Returns the error that prevented it, or None."""
        self._number += 1
        line = encode({**record, "number": self._number})
        self._crc = line[-11:-3].decode()
        self.pending.append(line)
        return self.write_pending()

    def write_pending(self) -> OSError | None:
        """Try to write the pending records. Returns the error that prevented it, or None."""
        try:
            with naming(self.path):
                self._notice_change()
                while self.pending:
                    _write_whole(self._file, self.pending[0], self._end)
                    self._end += len(self.pending.pop(0))
        except OSError as error:
            return error
        return None

    def position(self) -> Position:
        """Return the current end of the journal, after flushing everything up to there but the `missing` records."""
        self.write_pending()
        with contextlib.suppress(OSError):  # a record lost by a dying disk is reported by `rewind`
            os.fsync(self._file.fileno())
        return {"number": self._number, "crc": self._crc, "missing": len(self.pending)}

    def rewind(self, position: Position | None) -> None:
        """Truncate the journal after `position` (None: to nothing), since those steps are about to be repeated.

        Calls `warn` if the journal has lost records before `position`, or holds others; they stay.
        """
        self.pending.clear()
        wanted, wanted_crc = (0, "") if position is None else (position["number"], position["crc"])
        number, crc, end, num_damaged = 0, "", 0, 0
        for line in self._lines():
            found = _number_and_crc(line)
            if found is None:
                num_damaged += 1  # was reported when the journal was opened
            elif found[0] > wanted:
                break
            else:
                (number, crc), num_damaged = found, 0
            end += len(line)
        with naming(self.path):
            self._file.truncate(end)
        self._number, self._crc, self._end = wanted, wanted_crc, end
        num_lost = wanted - number
        if position is not None and num_lost > num_damaged:
            why = "could not be written" if position["missing"] >= num_lost else "another program removed"
            lost = f"{num_lost:,} record{'s' if num_lost > 1 else ''} that {why}"
            self._warn(f"{self.path}: missing before the checkpoint: {lost}; going on without")
        elif position is not None and num_lost == 0 and crc != wanted_crc:
            self._warn(f"{self.path}: not the record that the checkpoint was written with; going on with it")

    def adopt(self, path: Path) -> None:
        """Begin with the lines of another journal instead of one's own, their numbers and gaps included."""
        self.rewind(None)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as other:
            self.pending += [line for line in other if line.endswith(b"\n")]
        for found in filter(None, map(_number_and_crc, self.pending)):
            self._number, self._crc = found
        self.write_pending()

    def close(self) -> None:
        """Write the pending records if possible, and close."""
        self.position()
        self._file.close()

    def _notice_change(self) -> None:
        """Continue after a change by another program, and report it once."""
        try:
            is_in_place = os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            is_in_place = False
        if is_in_place and os.fstat(self._file.fileno()).st_size == self._end:
            return
        if not is_in_place:
            replaced, self._file = self._file, _open(self.path)
            replaced.close()
        self._mend()
        if not self._has_told_of_change:
            self._has_told_of_change = True
            self._warn(f"{self.path}: emptied, cut or replaced by another program; going on with what it left")

    def _lines(self) -> Iterator[bytes]:
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            lines.seek(0)
            yield from lines

    def _mend(self) -> None:
        """Move damaged lines out, truncate a torn one, and find the end."""
        damaged: list[int] = []
        end = 0
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n"):
                # Torn by a kill: never written whole, so never promised.
                self._file.truncate(end)
                break
            found = _number_and_crc(line)
            if found is None and line.strip():
                damaged.append(number)
                self._set_aside(line, end)
            elif found is not None and found[0] > self._number:
                self._number, self._crc = found
            end += len(line)
        self._end = end
        if damaged:
            more = f" (and {len(damaged) - 1:,} more)" if len(damaged) > 1 else ""
            self._warn(f"{self.path}:{damaged[0]}: a damaged line{more}, set aside in {self._damaged.name}")

    def _set_aside(self, line: bytes, start: int) -> None:
        # Readers skip a damaged line, so it does no harm if it has to stay.
        with contextlib.suppress(OSError):
            with self._damaged.open("ab") as file:
                file.write(line)
            os.pwrite(self._file.fileno(), b" " * (len(line) - 1), start)


class JournalTail:
    """A reader that follows a journal written by another process, from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._last = b""

    def read(self) -> Iterator[Record]:
        """Return the whole records since the last call; a journal that was truncated meanwhile is read again from its
        start."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset - len(self._last))
            if file.read(len(self._last)) != self._last:
                self._offset, self._last = file.seek(0), b""
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset, self._last = self._offset + len(line), line
                record = decode(line)
                if record is not None:
                    yield record


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record, whole or not at all, to a journal with several writers."""
    with naming(path), _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        is_torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
        _write_whole(file, b"\n" * is_torn + encode(record), end)


def read_journal(path: Path) -> Iterator[Record]:
    """Return the records of a journal in order, skipping damaged and torn lines; none if there is no file."""
    return JournalTail(path).read()


def read_tail(path: Path, num_bytes: int = _TAIL_BYTES) -> list[Record]:
    """Return the last whole records of a journal, within its last `num_bytes`."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - num_bytes)
            file.seek(start)
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [record for line in lines[start > 0 :] if (record := decode(line)) is not None]


def encode(record: Mapping[str, Any]) -> bytes:
    """Encode a record as a line: JSON whose last key is the checksum of the others."""
    body = json.dumps(record).encode()
    return body[:-1] + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode()


def decode(line: bytes) -> Record | None:
    """Decode a line, or return None if it is blank, torn or damaged."""
    if _number_and_crc(line) is None:
        return None
    record: Record = json.loads(_ENDING.sub(b"}", line))
    return record


def _number_and_crc(line: bytes) -> tuple[int, str] | None:
    """Return a record's number (0 with several writers) and checksum, or None if it is not whole."""
    ending = _ENDING.search(line)
    if ending is None or zlib.crc32(line[: ending.start(2)] + b"}") != int(ending[3], 16):
        return None
    return int(ending[1] or 0), ending[3].decode()


def _open(path: Path) -> io.FileIO:
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")


def _write_whole(file: io.FileIO, line: bytes, start: int) -> None:
    """Write all of a line at `start`, or nothing."""
    written = 0
    try:
        while written < len(line):
            # A disk or limit that accepts only part of the line raises at the next call.
            written += os.pwrite(file.fileno(), line[written:], start + written)
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise
