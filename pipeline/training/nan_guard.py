"""Detect a loss that is not finite without a wait for the device at every step."""

from __future__ import annotations

import torch

from pipeline.ground.distributed import Collective

_NEVER = 2**62


class NanGuard:
    """Keeps the first step with a NaN or infinite loss, on the device."""

    def __init__(self, collective: Collective) -> None:
        self._collective = collective
        self._first = torch.full((), _NEVER, dtype=torch.int64, device=collective.device)

    def look(self, loss: torch.Tensor, global_step: int) -> None:
        """Check a step's loss, without synchronising with the device."""
        here = torch.where(torch.isfinite(loss), _NEVER, global_step)
        self._first = torch.minimum(self._first, here)

    def first_bad_step(self) -> int | None:
        """Return the first bad step on any rank, the same on all, or None. Waits for the device."""
        first = self._collective.min(int(self._first))
        return None if first == _NEVER else first
