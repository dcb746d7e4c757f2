"""One process at a time in a stage directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.runs.artifact import naming_disk_errors

_LOCK = ".lock"


class DirectoryBusy(UserError):
    """Another live process works in the directory."""


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory's lock. DirectoryBusy where another live process holds it.

    The kernel releases the lock when its holder dies, however it dies, so a lock is never stale.
    """
    path = directory / _LOCK
    with naming_disk_errors(path), path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryBusy(busy_message(directory, _read_holder(file))) from None
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def lock_holder(directory: Path) -> str | None:
    """Who holds the directory's lock ("pid 7 on host"), or None where nobody does. Leaves nothing behind."""
    try:
        with (directory / _LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_holder(file)
    except FileNotFoundError:
        pass
    return None


def busy_message(directory: Path, holder: str) -> str:
    """What to tell whoever wanted to work in a directory that another process holds."""
    return f"{directory}: another process works here ({holder}); wait for it or stop it"


def _read_holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"
