"""The number of processor cores available to this process."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Return the number of cores that this process may use; a job often has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
