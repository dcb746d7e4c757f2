"""The loss scale of float16, for an optimizer that torch.amp.GradScaler does not support."""

from __future__ import annotations

from typing import Any

_GROWTH_FACTOR, _BACKOFF_FACTOR, _GROWTH_INTERVAL = 2.0, 0.5, 2000


class LossScale:
    """Loss scale with GradScaler's rule and state dict, so that either can resume from the other's."""

    def __init__(self) -> None:
        self.value = 65536.0
        self._steps_since_change = 0

    def update(self, *, overflowed: bool) -> None:
        """Halve the scale after a step with overflowing gradients, double it after many without."""
        self._steps_since_change += 1
        if overflowed:
            self.value, self._steps_since_change = self.value * _BACKOFF_FACTOR, 0
        elif self._steps_since_change == _GROWTH_INTERVAL:
            self.value, self._steps_since_change = self.value * _GROWTH_FACTOR, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the fields of GradScaler's state dict."""
        return {
            "scale": self.value,
            "growth_factor": _GROWTH_FACTOR,
            "backoff_factor": _BACKOFF_FACTOR,
            "growth_interval": _GROWTH_INTERVAL,
            "_growth_tracker": self._steps_since_change,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a scale and the number of steps since its last change."""
        self.value, self._steps_since_change = float(state["scale"]), int(state["_growth_tracker"])
