"""The process, or the group of processes, that runs a stage; forwards requests to stop to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path

from pipeline.ground.cores import count_cores
from pipeline.ground.interpreter import module_environment
from pipeline.ground.stop import StopFlag

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
_SECONDS_TO_SAVE = 300
_SHOW_CURSOR = "\x1b[?25h\n"
"""The progress bar hides the cursor, and a killed stage cannot bring it back."""


def stage_command(name: str, run: Path, processes: int) -> list[str]:
    """Return the command that starts the stage as `processes` processes."""
    stage = ["stages", name, "--run", str(run)]
    if processes == 1:
        return [sys.executable, "-m", *stage]
    return [sys.executable, "-m", "pipeline.running.torchrun", str(processes), *stage]


def stage_environment(environment: Mapping[str, str], processes: int) -> dict[str, str]:
    """Return the child's environment, in which its processes divide the cores among them."""
    child = module_environment(environment)
    child.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // processes)))
    # OpenMP's threads spin while they wait, on cores that the decoding threads need.
    child.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    child.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))
    # A shell inside a SLURM job has variables of its own; the world size is decided here.
    child.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"} if processes == 1 else {})
    return child


class Supervisor:
    """Runs one child at a time, and forwards requests to stop to it."""

    def __init__(self) -> None:
        self.stop = StopFlag()
        self.has_killed = False
        """Whether a second Ctrl-C has ended the child without saving."""
        self._child: subprocess.Popen[bytes] | None = None
        self._has_told = False

    @property
    def stop_reason(self) -> str | None:
        """The signal that asked to stop, or None."""
        return self.stop.reason

    def install(self) -> None:
        """Install handlers, except for signals that were already ignored (nohup, `&`)."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def run(self, command: list[str], environment: Mapping[str, str]) -> int:
        """Start the child and wait for its end. Returns its exit code as `subprocess` does, negative for a signal."""
        # In a group of its own: Ctrl-C then reaches it through here, exactly once. torchrun would take a second signal
        # for an order to kill its workers while they save.
        self._has_told = False
        self._child = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)
        if self.stop_reason is not None:
            self._tell()
        code = self._child.wait()
        self._child = None
        if code < 0 and sys.stdout.isatty():
            _write(_SHOW_CURSOR)
        return code

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        if self.stop_reason is None:
            self.stop.reason = signal.Signals(number).name
            again = "; Ctrl-C again ends it without saving" if number == signal.SIGINT else ""
            _write(f"\nstopping on {self.stop_reason}: the running stage saves its work first{again}\n")
            self._tell()
        elif number == signal.SIGINT:
            self._kill()

    def _tell(self) -> None:
        # SIGTERM for any signal received: a stage treats them alike, and torchrun leaves orphans on the others.
        if self._child is not None and not self._has_told:
            self._has_told = True
            self._child.terminate()

    def _kill(self) -> None:
        # Not by a signal that Python would handle: the stage may wait in a collective operation or in a driver.
        if self._child is not None:
            self.has_killed = True
            for process in [*_descendants(self._child.pid), self._child.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    """Return all processes below this one; torchrun's workers are in sessions of their own, so no group has them
    all."""
    found = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _write(text: str) -> None:
    """Write from a signal handler, bypassing Python's buffers, which the interrupted code may be using."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), text.encode())
