"""Commands that are ended while they start or while a child of theirs works: no traceback, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SLOW = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(600)\n"


def start(*words: str, before: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Start launch as a shell would, in a group of its own; modules in `before` take the place of others."""
    path = [str(REPOSITORY)] if before is None else [str(REPOSITORY), str(before)]
    return subprocess.Popen(
        [sys.executable, "-m", "launch", *words],
        cwd=REPOSITORY,
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ("argparse", ["status", "runs/none"]),
        ("pydantic", ["plan", "configs/demo.yaml"]),
        ("torch", ["plan", "configs/demo.yaml", "--simulate"]),
        ("torch", ["weights", "export", "w.safetensors", "w.pth", "--layout", "cadene"]),
        ("torch", ["predict", "{weights}", "photo.jpg"]),
        ("torch", ["tune", "configs/demo.yaml"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_ctrl_c_during_an_import_says_nothing_and_ends_the_child_too(slow, words, tmp_path):
    (tmp_path / f"{slow}.py").write_text(SLOW)
    (tmp_path / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    process = start(*(word.format(weights=tmp_path / "w.safetensors") for word in words), before=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "importing\n"
    os.killpg(process.pid, signal.SIGINT)
    # The pipe ends with the last process that has it.
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 1


def test_tuning_that_is_ended_leaves_no_message_of_its_child(tmp_path):
    process = start("tune", "configs/demo.yaml", "max_micro_batch=8", XDG_CACHE_HOME=str(tmp_path))
    assert process.stdout is not None
    while "trying" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    assert process.communicate(timeout=60)[1] == ""
