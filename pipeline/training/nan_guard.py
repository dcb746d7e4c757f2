"""Noticing a loss that is no longer a number without making the host wait for the device at every step."""

from __future__ import annotations

import torch

from pipeline.ground.distributed import Collective

_NEVER = 2**62


class NanGuard:
    """Remembers, on the device, the first step with a NaN or infinite loss."""

    def __init__(self, collective: Collective) -> None:
        self._collective = collective
        self._first = torch.full((), _NEVER, dtype=torch.int64, device=collective.device)

    def look(self, loss: torch.Tensor, global_step: int) -> None:
        """Take note of a step's loss; no host synchronisation."""
        here = torch.where(torch.isfinite(loss), _NEVER, global_step)
        self._first = torch.minimum(self._first, here)

    def first_bad_step(self) -> int | None:
        """The first bad step on any rank, so that all ranks stop alike. Waits for the device."""
        first = self._collective.min(int(self._first))
        return None if first == _NEVER else first
