"""Requests to stop: a signal sets a flag, which the work checks between two steps."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import types
from collections.abc import Iterator

from pipeline.ground.interpreter import LAUNCHER

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopFlag:
    """A flag set by SIGTERM, SIGUSR2 (SLURM's warning; NCCL may use USR1) or Ctrl-C.

    The handler does nothing else: saving or talking to other ranks inside a handler can deadlock. A second Ctrl-C ends
    the process at once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None

    def install(self) -> None:
        """Install the signal handlers; only in the main thread of a process."""
        for number in _SIGNALS:
            signal.signal(number, self._set)

    @contextlib.contextmanager
    def hangups(self) -> Iterator[None]:
        """Set the flag at SIGHUP too, sent where the launcher or the terminal is gone: for work that a stop saves.

        Elsewhere it ends the process at once. Under nohup it stays ignored, unless this program started the process.
        """
        before = signal.getsignal(signal.SIGHUP)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._set)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    @property
    def is_set(self) -> bool:
        """Return whether a stop was requested."""
        return self.reason is not None

    def _set(self, number: int, frame: types.FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_signals() -> None:
    """Ignore further requests to stop, once nothing is left to save.

    Python removes its handlers before the process has ended, so a repeated signal would kill a process that is ending
    anyway.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent() -> None:
    """Ask Linux to send SIGHUP when the process that started this module dies: a killed launcher leaves no orphans.

    It ends this process at once, except where it is caught (`StopFlag.hangups`).
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    # A launcher under nohup ignores it, and its children inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGHUP)
    if os.getppid() != int(launcher):  # it died before
        os.kill(os.getpid(), signal.SIGHUP)
