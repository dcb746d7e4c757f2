"""One process at a time in a stage directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.stop import StopFlag
from pipeline.store.file import naming

_LOCK = ".lock"
_LOOK_SECONDS = 0.01
_TURN_SECONDS = 2.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class DirectoryBusy(UserError):
    """Another live process works in the directory."""


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory's lock. Raises DirectoryBusy if another live process holds it.

    Stale locks cannot occur: the kernel releases a lock when its process ends, and a file server that of a dead machine
    as soon as it has given the machine up.
    """
    path = directory / _LOCK
    with path.open("a+") as file:
        while not _lock(file, fcntl.LOCK_EX):
            if not _lock(file, fcntl.LOCK_SH):
                raise DirectoryBusy(busy_message(directory, _read_holder(file)))
            # Nobody works here: `lock_holder` of some `status` holds a shared lock for an instant.
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(_LOOK_SECONDS)
        file.seek(0)
        file.truncate()
        with naming(path):
            file.write(f"pid {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


@contextlib.contextmanager
def in_turn(directory: Path, stop: StopFlag, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the directory's lock once it is free; calls `note` once with the holder's name.

    Raises StopRequested if a stop is requested meanwhile.
    """
    with contextlib.ExitStack() as held:
        is_told = False
        while True:
            try:
                held.enter_context(exclusive(directory))
                break
            except DirectoryBusy as busy:
                if stop.is_set:
                    raise StopRequested(f"stopped by {stop.reason} while waiting: {busy}") from None
                if not is_told:
                    note(f"waiting for {lock_holder(directory) or 'another process'}, at work in {directory}")
                    is_told = True
                time.sleep(_TURN_SECONDS)
        yield


def lock_holder(directory: Path) -> str | None:
    """Return the holder of the directory's lock ("pid 7 on host"), or None. Leaves nothing behind."""
    try:
        with (directory / _LOCK).open() as file:
            if not _lock(file, fcntl.LOCK_SH):
                return _read_holder(file)
    except FileNotFoundError:
        pass
    return None


def busy_message(directory: Path, holder: str) -> str:
    """Return the message for a directory that another process holds."""
    return f"{directory}: another process works here ({holder}); wait for it or stop it"


def _lock(file: IO[str], kind: int) -> bool:
    """Take the lock, exclusive or shared. Returns False if another process holds it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"{file.name}: cannot be locked ({error.strerror}); choose a place on a file system with locks "
            "(flock), or have it mounted with them (Lustre: -o flock)"
        ) from error
    return True


def _read_holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"
