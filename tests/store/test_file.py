from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store.file import (
    explain,
    link_or_copy,
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
    ("number", "words"),
    [
        ("ENOSPC", r"/x: no space left to write it \([\d,]+ MB free below .*; free some space"),
        ("EDQUOT", "/x: the disk quota is used up; what was complete before is unharmed"),
        ("EFBIG", r"/x: a limit on the size of files \(ulimit -f, or the file system's own\) is reached"),
        ("EROFS", r"/x: cannot be written or read \(Read-only file system\); choose another place"),
        ("ENAMETOOLONG", "/x: the path is too long"),
        ("ENOTDIR", "/x: a part of the path is a file, not a folder"),
    ],
)
def test_an_error_of_the_disk_is_one_sentence_with_the_path_that_failed(
    tmp_path: Path, number: str, words: str
) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(getattr(errno, number)))) as caught, naming(tmp_path / "x"):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))
    sentence = explain(caught.value)
    assert sentence is not None
    assert re.search(words, sentence), sentence


def test_an_error_that_names_its_file_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "outer"):
        (tmp_path / "inner").read_bytes()
    assert caught.value.filename == str(tmp_path / "inner")


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(errno.EIO, "I/O error", "file"), OSError(errno.ENOSPC, "x")]
)
def test_an_unknown_error_keeps_its_traceback(error: OSError) -> None:
    assert explain(error) is None


def test_a_read_only_file_system_refuses_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # as Linux does there, also for a file that does not exist
    with pytest.raises(OSError, match="Read-only file system") as caught:
        write_bytes(tmp_path / "file", b"")
    assert caught.value.filename == str(tmp_path / "file")


def test_a_link_is_the_same_file_and_a_copy_across_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"content")
    link_or_copy(tmp_path / "source", tmp_path / "link")
    assert (tmp_path / "link").samefile(tmp_path / "source")

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("os.link", refuse)
    link_or_copy(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
    assert not (tmp_path / "copy").samefile(tmp_path / "source")


def test_json_is_readable_and_keeps_its_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'
