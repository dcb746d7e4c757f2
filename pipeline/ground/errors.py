"""The exceptions that decide how a process ends, with their exit codes."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75


class UserError(Exception):
    """An error in the user's config, data or command: one clear message, no traceback, exit code 2.

    The message names the key or file, what is allowed and what was given.
    """


class StopRequested(Exception):
    """Work ended early on request (a signal, a time limit) after saving; the same command resumes it. Exit code 75."""


class StartFailed(Exception):
    """The processes of a stage did not come together. Exit code 1, one clear message."""


class StartAbandoned(StopRequested):
    """A process was asked to stop, or lost the main one, before all had met. Nothing has begun.

    No outcome is recorded: only the launcher knows whether the stop was its own or another process has died.
    """


class TrainingDiverged(Exception):
    """The loss or the weights became NaN or infinite: nothing more is saved. Exit code 1, one clear message."""
