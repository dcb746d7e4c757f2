"""Whether a checkpoint fits into the time between a scheduler's warning and the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.tracking.events import Event

WARNING_SECONDS = "SENET154_WARNING_SECONDS"
"""Set by whoever starts the stage and will warn it so many seconds before the end."""


class GraceCheck:
    """A listener that tells once what a checkpoint takes of the grace period, and warns where that is too much.

    At the start where an earlier attempt has measured it, else at the first checkpoint.
    """

    def __init__(self, directory: Path, warning_seconds: float, note: Callable[[str, str], None]) -> None:
        """`note` takes the text and its level."""
        self._warning_seconds = warning_seconds
        self._note = note
        self._has_told = False
        seconds = _measured_seconds(directory)
        if seconds is not None:
            self._tell(seconds)

    def __call__(self, event: Event) -> None:
        """Look for the first checkpoint."""
        if event["kind"] == "checkpoint" and not self._has_told:
            self._tell(event["seconds"])

    def _tell(self, seconds: float) -> None:
        self._has_told = True
        text = f"a checkpoint takes {seconds:.1f} s, the warning comes {self._warning_seconds:g} s before the end"
        # The step or validation that is under way is finished before anything is saved, and so is, at the same time,
        # an earlier checkpoint that is still being written.
        if 2 * seconds <= self._warning_seconds:
            self._note(text, "info")
        else:
            self._note(
                f"{text}: too late for the work under way and the checkpoint; raise warning_seconds of the profile to "
                f"at least {2 * seconds:.0f}",
                "warning",
            )


def grace_seconds(environment: Mapping[str, str]) -> float | None:
    """The warning that this process is promised; None where nobody promised one."""
    promised = environment.get(WARNING_SECONDS)
    return None if promised is None else float(promised)


def _measured_seconds(directory: Path) -> float | None:
    """What the newest checkpoint of the stage took."""
    try:
        return float(json.loads((directory / "checkpoints" / "latest.json").read_text())["seconds"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
