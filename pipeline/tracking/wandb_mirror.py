"""Weights & Biases as a copy of the event log, kept by a separate process.

The client talks to servers that can be slow, hang or be gone, starts threads and services, and hooks into the exit of
its process. None of that may touch a training process, which therefore only starts another one (`wandb_process`). That
one reads the stage's journal; at the end it receives the stage's exit code, and the stage waits for it for a bounded
time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO

from pipeline.config.operations import TrackingConfig
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.interpreter import module_environment
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mode import Mode

TABLES = "tables.json"
"""A stage's tables for W&B: {name: {"columns": [...], "rows": [[...], ...]}}."""
SCORES = "scores-*"
"""A stage's scores and their descriptions."""
CONSOLE = "console.log"
"""The lines that a stage's present attempt has shown, as in a pipe."""
CLOSE_SECONDS = 30.0
"""Longest wait for W&B at the end of a stage, without scores and weights."""
_UPLOAD_BYTES_PER_SECOND = 5e6
"""Lowest assumed rate of uploads of scores and weights."""

Warn = Callable[[str], None]


class WandbMirror:
    """The copy of one stage. Never raises, and waits only when it is closed, for a bounded time."""

    def __init__(self, settings: TrackingConfig, tracked: Tracked, mode: Mode, warn: Warn) -> None:
        """Start the process; `warn` shows one line to the user and may be called from another thread."""
        self._warn = warn
        self._process: subprocess.Popen[str] | None = None
        self._settings, self._tracked = settings, tracked
        try:
            self._process = _start_process(mode, settings.model_dump_json(), tracked.to_json())
        except (OSError, ValueError) as error:
            warn(f"Weights & Biases gets no copy of this stage: {error}")
            return
        # The thread is the only reader of the pipe: `communicate` below writes and waits, but does not read.
        pipe, self._process.stdout = self._process.stdout, None
        assert pipe is not None
        self._listener = threading.Thread(target=self._listen, args=(pipe,), daemon=True)
        self._listener.start()

    def close(self, exit_code: int) -> None:
        """Send the exit code of the stage, and wait a bounded time for W&B's upload."""
        if self._process is None:
            return
        seconds = CLOSE_SECONDS
        if exit_code == EXIT_DONE:
            scores = self._tracked.directory.glob(SCORES) if self._settings.upload_scores else ()
            with contextlib.suppress(OSError):
                uploaded = sum(path.stat().st_size for path in (*scores, *self._tracked.weights.values()))
                seconds += uploaded / _UPLOAD_BYTES_PER_SECOND
        try:
            self._process.communicate(json.dumps({"exit_code": exit_code, "seconds": seconds}) + "\n", seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._warn(
                f"Weights & Biases did not finish within {seconds:.0f} s and was left behind; the run's own "
                "event files have everything, and `wandb sync` can upload what is in the run's wandb folder"
            )
        self._listener.join(1.0)

    def _listen(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._warn(json.loads(line))


def _start_process(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in module_environment().items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.tracking.wandb_process", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the stage, which then says goodbye to W&B
    )
