from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found]
import errno
import os

import pytest

from pipeline.data.workers import run_in_processes
from pipeline.ground.stop import StopFlag
from pipeline.store.file import explain


def no_semaphores(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, the stage's own .lock was blamed for it."""
    monkeypatch.setattr(_multiprocessing, "SemLock", no_semaphores)
    with pytest.raises(OSError, match="No space left on device") as caught:
        list(run_in_processes(print, ["task"], StopFlag(), 1))
    assert caught.value.filename == "/dev/shm"
    sentence = explain(caught.value)
    assert sentence is not None
    assert sentence.startswith("/dev/shm: no space left to write it (")
