"""The time of asynchronous work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from pipeline.bench.measurement import Spread
from pipeline.ground.errors import UserError

_GROUPS = 5
_GROUP_SECONDS = 0.02


def time_work(work: Callable[[], object], device: torch.device, warm_up: int = 2) -> Spread:
    """Return seconds per call: median and range over groups of calls that are queued together.

    A group lasts long enough to hide the queueing, unless the host cannot keep up with the device.
    """
    for _ in range(warm_up):
        work()
    once = _seconds(work, 1, device)
    calls = max(1, round(_GROUP_SECONDS / max(once, 1e-6)))
    return Spread.of([_seconds(work, calls, device) for _ in range(_GROUPS)])


def figures_or_error(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of `measure`, or its error, as for lack of memory or of a kernel, which is a finding too."""
    try:
        return measure()
    except (RuntimeError, UserError) as error:
        return {"error": (str(error).splitlines() or [type(error).__name__])[0]}


def synchronise(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(work: Callable[[], object], calls: int, device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return (time.perf_counter() - started) / calls
