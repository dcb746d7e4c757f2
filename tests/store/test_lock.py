from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.store.lock import exclusive, lock_holder

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from pipeline.store.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_works_there_until_the_first_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=rf"another process works here \(pid {holder.pid} on .*\)"),
            exclusive(tmp_path),
        ):
            pass
        holder.kill()
    with exclusive(tmp_path):
        pass


def test_who_merely_looks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with exclusive(tmp_path):
        pass
    with (tmp_path / ".lock").open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        waits = []

        def look_away(seconds: float) -> None:
            waits.append(seconds)
            fcntl.flock(looker, fcntl.LOCK_UN)

        monkeypatch.setattr("time.sleep", look_away)
        with exclusive(tmp_path):
            assert lock_holder(tmp_path) is not None
    assert len(waits) == 1


def test_a_file_system_without_locks_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    for ask in (lambda: exclusive(tmp_path).__enter__(), lambda: lock_holder(tmp_path)):
        with pytest.raises(
            UserError, match=r"\.lock: cannot be locked \(Function not implemented\); choose a place on"
        ):
            ask()
