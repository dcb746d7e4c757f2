"""Compare a checkpoint's time with the interval between a scheduler's warning and the end of the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.tracking.events import Event
from pipeline.tracking.wording import duration

WARNING_SECONDS = "SENET154_WARNING_SECONDS"
"""Seconds between the warning and the end; set by the job that starts the stage."""


class GraceCheck:
    """A listener that reports once how much of the grace period a checkpoint takes, and warns if that is too much.

    At the start if an earlier attempt has measured it, else at the first checkpoint.
    """

    def __init__(
        self, measured_seconds: float | None, warning_seconds: float, note: Callable[[str, str], None]
    ) -> None:
        """Keep the duration of an earlier checkpoint, if there is one; `note` takes a text and its level."""
        self._warning_seconds = warning_seconds
        self._note = note
        self._has_told = False
        if measured_seconds is not None:
            self._tell(measured_seconds)

    def __call__(self, event: Event) -> None:
        """Look for the first checkpoint."""
        if event["kind"] == "checkpoint" and not self._has_told:
            self._tell(event["seconds"])

    def _tell(self, seconds: float) -> None:
        self._has_told = True
        text = f"a checkpoint takes {duration(seconds)}, the warning comes {self._warning_seconds:g} s before the end"
        # The current step or validation is finished before anything is saved, and so is, at the same time, an earlier
        # checkpoint that is still being written.
        if 2 * seconds <= self._warning_seconds:
            self._note(text, "info")
        else:
            self._note(
                f"{text}: too late for the work under way and the checkpoint; raise warning_seconds of the profile to "
                f"at least {2 * seconds:.0f}",
                "warning",
            )


def grace_seconds(environment: Mapping[str, str]) -> float | None:
    """Return the warning time promised to this process, or None."""
    promised = environment.get(WARNING_SECONDS)
    return None if promised is None else float(promised)
