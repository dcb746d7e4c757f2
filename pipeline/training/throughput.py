"""How fast training goes, and how much of the time it waits for images."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Speed:
    """Since the last reading."""

    images_per_second: float
    """Over all processes."""
    data_wait_percent: float
    """Share of the time in which this process waited for its loader."""


class Throughput:
    """A stop-watch around the steps; validation and saving are not counted."""

    def __init__(self, global_batch: int) -> None:
        self._global_batch = global_batch
        self._started = time.monotonic()
        self._steps = 0
        self._waited = 0.0
        self.recent: float | None = None
        """Images per second at the last reading, None before the first."""

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Around taking a batch from the loader."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around work that is not training."""
        before = time.monotonic()
        yield
        self._started += time.monotonic() - before

    def step_done(self) -> None:
        """Count an optimizer step."""
        self._steps += 1

    def read(self) -> Speed:
        """The speed since the last reading; starts anew."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        speed = Speed(
            round(self._steps * self._global_batch / elapsed, 1), round(100 * min(1.0, self._waited / elapsed), 1)
        )
        self.recent = speed.images_per_second
        self._started, self._steps, self._waited = time.monotonic(), 0, 0.0
        return speed
