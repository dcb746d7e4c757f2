"""How many processor cores there are to share out."""

from __future__ import annotations

import os


def count_cores() -> int:
    """The cores that this process may use, which inside a job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
