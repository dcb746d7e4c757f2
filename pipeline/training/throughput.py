"""The speed of training, and the time that it waits for images."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Speed:
    """Speed since the last reading."""

    images_per_second: float
    """Images per second of all processes."""
    data_wait_percent: float
    """Percentage of the time in which this process waited for its loader."""


class Throughput:
    """A stopwatch around the steps that excludes validation and saving."""

    def __init__(self, global_batch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._global_batch = global_batch
        self._clock = clock
        self._started = clock()
        self._steps = 0
        self._waited = 0.0
        self.recent: float | None = None
        """Images per second at the last reading, None before the first."""

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time the wait for a batch of the loader."""
        before = self._clock()
        yield
        self._waited += self._clock() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude work that is not training."""
        before = self._clock()
        yield
        self._started += self._clock() - before

    def step_done(self) -> None:
        """Count an optimizer step."""
        self._steps += 1

    def read(self) -> Speed:
        """Return the speed since the last reading, and restart."""
        now = self._clock()
        elapsed = max(now - self._started, 1e-9)
        images = self._steps * self._global_batch
        speed = Speed(round(images / elapsed, 1), round(100 * min(1.0, self._waited / elapsed), 1))
        self.recent = speed.images_per_second
        self._started, self._steps, self._waited = now, 0, 0.0
        return speed
