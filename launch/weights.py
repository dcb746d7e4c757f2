"""`weights import` and `weights export`: a child process converts, since reading weights takes torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline.ground.errors import EXIT_FAILED
from pipeline.ground.interpreter import module_environment


def convert_weights(action: str, file: Path, out: Path, layout: str | None, entry: str | None = None) -> int:
    """Convert a weight file (`pipeline.interop`), which prints its findings. Returns the exit code."""
    command = [sys.executable, "-m", "pipeline.interop", action, *(["--layout", layout] if layout else [])]
    command += ["--entry", entry] if entry else []
    # A file may have any name, also one that looks like an option.
    command += ["--", str(file), str(out)]
    # In a session of its own: Ctrl-C comes here alone, and `run` then kills the child, which has no message about it.
    done = subprocess.run(command, env=module_environment(), start_new_session=True)
    return done.returncode if done.returncode >= 0 else EXIT_FAILED
