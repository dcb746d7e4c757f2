"""Requests to stop: a signal sets a flag, which the work checks between two steps."""

from __future__ import annotations

import ctypes
import signal
import sys
import types

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
    """Ask Linux to send SIGTERM when the starting process dies, so that a killed launcher leaves no orphans at work."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
