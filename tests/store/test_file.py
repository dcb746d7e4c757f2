from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.store.file import (
    naming,
    remove_leftovers,
    replacing,
    replacing_directory,
    write_bytes,
    write_json,
)

ROOT = Path(__file__).parents[2]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), replacing_directory(tmp_path / "d") as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError("in the middle")
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.store.file import replacing, replacing_directory
manager = replacing_directory if sys.argv[2] == "directory" else replacing
with manager(Path(sys.argv[1])) as temporary:
    (temporary / "file" if sys.argv[2] == "directory" else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_kill_in_the_middle_leaves_only_what_the_next_attempt_removes(tmp_path: Path, kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "target"), kind], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "target").exists()
    assert len(os.listdir(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "words"), [("ENOSPC", "no space left to write it"), ("EROFS", "cannot be written .* another place")]
)
def test_disk_errors_become_one_clear_message(tmp_path: Path, number: str, words: str) -> None:
    with pytest.raises(UserError, match=words), naming(tmp_path / "x"):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))


def test_a_read_only_file_system_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # as Linux does there, also for a file that does not exist
    with pytest.raises(UserError, match=r"/file: cannot be written \(Read-only file system\); choose another place"):
        write_bytes(tmp_path / "file", b"")


def test_json_is_readable_and_keeps_its_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'
