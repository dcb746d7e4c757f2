"""The loss scale of float16, for an optimizer that torch.amp.GradScaler cannot look into."""

from __future__ import annotations

from typing import Any

_GROWTH_FACTOR, _BACKOFF_FACTOR, _GROWTH_INTERVAL = 2.0, 0.5, 2000


class LossScale:
    """GradScaler's rule and state dict, so that either goes on from the other's. It is told of overflows."""

    def __init__(self) -> None:
        self.value = 65536.0
        self._steps_since_change = 0

    def update(self, *, overflowed: bool) -> None:
        """Halve the scale after a step whose gradients overflowed, double it after many that did not."""
        self._steps_since_change += 1
        if overflowed:
            self.value, self._steps_since_change = self.value * _BACKOFF_FACTOR, 0
        elif self._steps_since_change == _GROWTH_INTERVAL:
            self.value, self._steps_since_change = self.value * _GROWTH_FACTOR, 0

    def state_dict(self) -> dict[str, Any]:
        """In GradScaler's words."""
        return {
            "scale": self.value,
            "growth_factor": _GROWTH_FACTOR,
            "backoff_factor": _BACKOFF_FACTOR,
            "growth_interval": _GROWTH_INTERVAL,
            "_growth_tracker": self._steps_since_change,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a scale and the number of steps since it last changed."""
        self.value, self._steps_since_change = float(state["scale"]), int(state["_growth_tracker"])
