"""The validations of a phase of training. Imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class ValidationRecord:
    """The latest validation and the best ones; each has its `global_step` and `top1_error_percent`."""

    latest: dict[str, Any] | None = None
    best: dict[str, Any] | None = None
    best_saved: dict[str, Any] | None = None
    """The best of those whose weights were saved."""

    def add(self, validation: dict[str, Any]) -> None:
        """Record a validation."""
        self.latest = validation
        self.best = _better(validation, self.best)

    def note_saving(self, global_step: int) -> int | None:
        """Record that the weights of this step are being saved.

        Returns the step of the best saved weights, or None if none of the saved ones were validated.
        """
        if self.latest is not None and self.latest["global_step"] == global_step:
            self.best_saved = _better(self.latest, self.best_saved)
        return None if self.best_saved is None else self.best_saved["global_step"]


def _better(validation: dict[str, Any], best: dict[str, Any] | None) -> dict[str, Any]:
    """Return the one with the lower top-1 error; the earlier of equals."""
    if best is None or validation["top1_error_percent"] < best["top1_error_percent"]:
        return validation
    return best
