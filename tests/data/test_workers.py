from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from tests.conftest import REPOSITORY

POOL = """
from pipeline.data.workers import run_in_processes
from pipeline.ground.stop import StopFlag
from pipeline.store.answer import answered
answered(lambda: print(*run_in_processes(print, ["task"], StopFlag(), 1)))
"""
OTHER_SHM = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && {spoil} && exec "$@"'
SPOILT = {
    "No space left on device": "! head -c 1M /dev/zero > /dev/shm/file 2>/dev/null",
    "Read-only file system": "mount -o remount,ro /dev/shm",
}


@pytest.mark.parametrize("length", [60, 75, 76, 110, 200])
def test_any_temporary_folder_will_do(length: int) -> None:
    """Python makes the sockets of its processes there (CPython's issue 140734)."""
    with tempfile.TemporaryDirectory(prefix="x" * (length - len("/tmp/12345678")), dir="/tmp") as folder:
        assert len(folder) == length
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", POOL], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "task\ntask\n", "")


@pytest.mark.parametrize("problem", SPOILT)
def test_a_shared_memory_that_is_of_no_use_is_named_with_the_remedy(problem: str) -> None:
    unshare = ["unshare", "--mount", "sh", "-c", OTHER_SHM.format(spoil=SPOILT[problem]), "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("another /dev/shm can be mounted by root only")
    done = subprocess.run([*unshare, sys.executable, "-c", POOL], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stderr == (
        f"/dev/shm: no semaphore for the worker processes can be made there ({problem}); it must be mounted, writable "
        "and not full (df /dev/shm); a container gets more of it by docker run --shm-size=1g, or the machine's own by "
        "apptainer exec --bind /dev/shm\n"
    )
