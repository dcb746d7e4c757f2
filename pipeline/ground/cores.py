"""The number of processor cores available to this process."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path


def count_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use; a job or container often has fewer than its machine.

    Both affinity and the CPU quotas of its cgroups count, part of a core as a whole one. `root` has `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(math.ceil(quota) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of the cgroups of this process and of those above it, in cores."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, files = root / "sys/fs/cgroup", ["cpu.max"]
            elif "cpu" in controllers.split(","):
                top, files = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            # A container may be told its path on the host, but sees its own cgroup at the top.
            place = top / path.lstrip("/")
            for folder in (place, *(parent for parent in place.parents if parent.is_relative_to(top))):
                # Without a quota it is -1 in version 1 and "max" in version 2.
                with contextlib.suppress(OSError, ValueError):
                    quota, period = map(int, " ".join((folder / file).read_text() for file in files).split())
                    if quota > 0:
                        yield quota / period
