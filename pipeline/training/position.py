"""Where training stands, beside the weights. Never imports torch."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class Progress:
    """What a checkpoint holds of the trainer itself. A validation has its `global_step` and `top1_error_percent`."""

    global_step: int
    best: dict[str, Any] | None = None
    """The best validation of this stage."""
    validation: dict[str, Any] | None = None
    """The latest validation."""
    best_saved: dict[str, Any] | None = None
    """The best validation of weights that were saved."""

    def note_validation(self, validation: dict[str, Any]) -> None:
        """The weights of this step were validated."""
        self.validation = validation
        self.best = _better(validation, self.best)

    def note_checkpoint(self) -> int | None:
        """The weights of this step are being saved; returns the step of the best saved ones, None where none were
        validated."""
        if self.validation is not None and self.validation["global_step"] == self.global_step:
            self.best_saved = _better(self.validation, self.best_saved)
        return None if self.best_saved is None else self.best_saved["global_step"]


def _better(validation: dict[str, Any], best: dict[str, Any] | None) -> dict[str, Any]:
    """The one with the lower top-1 error; the earlier of equals."""
    if best is None or validation["top1_error_percent"] < best["top1_error_percent"]:
        return validation
    return best
