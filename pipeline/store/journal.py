"""Journals: one JSON object a line, each with a checksum, only appended to or cut back.

A line is there whole or not at all. One that is damaged is named once and set aside into `<name>.damaged`; its place is
blanked, so the positions of the others stay. Who only reads, skips it.
"""

from __future__ import annotations

import fcntl
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
"""`bytes`: the journal's length; `crc`: the checksum of its last line, or None for an empty journal."""

_CRC = re.compile(rb', "crc": "([0-9a-f]{8})"}$')
_TAIL_BYTES = 65_536


class Journal:
    """A journal open for writing, by one process: the holder of its folder's lock."""

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        """Open or begin the journal; damaged lines are set aside, each told to `warn`."""
        self.path = path
        self.pending: list[bytes] = []
        """Lines that could not be written yet; each further `append` tries again."""
        self._warn = warn
        with naming(path):
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._set_damage_aside()

    def append(self, record: Mapping[str, Any]) -> bool:
        """Write one record, and before it what is pending. Returns whether all is written; what is not, is kept."""
        self.pending.append(encode(record))
        return self.write_pending() is None

    def write_pending(self) -> OSError | None:
        """Try to write what is pending. Returns the error that prevented it, or None."""
        while self.pending:
            end = self._file.seek(0, os.SEEK_END)
            try:
                with naming(self.path):
                    _write_whole(self._file.fileno(), self.pending[0])
            except OSError as error:
                self._file.truncate(end)
                return error
            self.pending.pop(0)
        return None

    def position(self) -> Position:
        """Where the journal ends now, with everything up to there on disk."""
        self.write_pending()
        with naming(self.path):
            os.fsync(self._file.fileno())
        return self._position_at(self._file.seek(0, os.SEEK_END))

    def rewind(self, position: Position) -> None:
        """Cut off what was written after `position`: that is about to be done, and written, again.

        A journal that is shorter or other than `position` says is told to `warn` once; lines that end before it stay.
        """
        self.pending.clear()
        end = self._file.seek(0, os.SEEK_END)
        wanted = int(position["bytes"])
        if end < wanted:
            self._warn(f"{self.path}: {wanted - end:,} bytes of the record are gone; going on without them")
        elif self._position_at(wanted) != position:
            self._warn(f"{self.path}: the record is not the one that the checkpoint was written with; going on with it")
            while wanted and self._read(wanted - 1, 1) != b"\n":
                wanted -= 1
        self._file.truncate(min(wanted, end))

    def close(self) -> None:
        """Write what is pending, as far as that can be, and close."""
        self.write_pending()
        self._file.close()

    def _position_at(self, end: int) -> Position:
        if end == 0:
            return {"bytes": 0, "crc": None}
        tail = self._read(max(0, end - _TAIL_BYTES), min(end, _TAIL_BYTES))
        if not tail.endswith(b"\n"):
            return {"bytes": end, "crc": None}
        found = _CRC.search(tail[:-1].rpartition(b"\n")[2])
        return {"bytes": end, "crc": None if found is None else found[1].decode()}

    def _read(self, start: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, start)

    def _set_damage_aside(self) -> None:
        start = 0
        self._file.seek(0)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            for number, line in enumerate(lines, start=1):
                end = start + len(line)
                if not line.endswith(b"\n"):
                    self._file.truncate(start)  # torn by a kill or a full disk: never written whole, so never promised
                elif line.strip() and decode(line) is None:
                    damaged = self.path.with_name(f"{self.path.name}.damaged")
                    with damaged.open("ab") as file:
                        file.write(line)
                    os.pwrite(self._file.fileno(), b" " * (len(line) - 1), start)
                    self._warn(f"{self.path}:{number}: a damaged line of the record, set aside in {damaged.name}")
                start = end
        self._file.seek(0, os.SEEK_END)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record to a journal that several processes write to, now and then; whole or not at all."""
    with naming(path), path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        with path.open("rb") as reading:
            reading.seek(max(0, end - 1))
            is_torn = end > 0 and reading.read(1) != b"\n"
        try:
            _write_whole(file.fileno(), b"\n" * is_torn + encode(record))
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise


def read_journal(path: Path) -> Iterator[Record]:
    """The records of a journal in order; damaged and torn lines are skipped. Nothing if there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            record = decode(line)
            if record is not None:
                yield record


def read_tail(path: Path, num_bytes: int = _TAIL_BYTES) -> list[Record]:
    """The last whole records of a journal, as far as they lie in its last `num_bytes`."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = max(0, end - num_bytes)
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return []
    if start:
        content = content.partition(b"\n")[2]
    return [record for line in content.splitlines(keepends=True) if (record := decode(line)) is not None]


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as a line: JSON whose last key is the checksum of what is before it."""
    body = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return body[:-1] + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode()


def decode(line: bytes) -> Record | None:
    """The record of a line, or None if it is blank, torn or damaged."""
    found = _CRC.search(line[:-1]) if line.endswith(b"\n") else None
    if found is None:
        return None
    body = line[: found.start()] + b"}"
    if f"{zlib.crc32(body):08x}".encode() != found[1]:
        return None
    record: Record = json.loads(body.decode("utf-8", "surrogateescape"))
    return record


def _write_whole(descriptor: int, line: bytes) -> None:
    """Write all of a line; a disk or limit that takes only a part of it raises at the next call."""
    written = 0
    while written < len(line):
        written += os.write(descriptor, line[written:])
