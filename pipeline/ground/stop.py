"""Being asked to stop: a signal sets a flag, and the work looks at it between two steps."""

from __future__ import annotations

import ctypes
import signal
import sys
import types

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopFlag:
    """Set by SIGTERM, SIGUSR2 (SLURM's warning; NCCL may use USR1) or Ctrl-C. The handler does nothing else: saving
    or talking to other ranks inside a handler can deadlock. A second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def install(self) -> None:
        """Take the signals; only in the main thread of a process."""
        for number in _SIGNALS:
            signal.signal(number, self._set)

    @property
    def is_set(self) -> bool:
        """Whether stopping was asked for."""
        return self.reason is not None

    def _set(self, number: int, frame: types.FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_signals() -> None:
    """From now on nothing is to be saved any more: a request to stop that is repeated must not kill a process that ends
    anyway, since Python gives up its handlers before it has gone."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent() -> None:
    """Ask Linux to send SIGTERM when the starting process dies, so that a killed launcher leaves no orphans at work."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
