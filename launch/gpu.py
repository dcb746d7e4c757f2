"""The GPUs of this machine, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess

from pipeline.ground.errors import UserError


def count_visible_gpus() -> int:
    """Return the number of GPUs visible to the stages: those in CUDA_VISIBLE_DEVICES, or all that the driver lists."""
    if shutil.which("nvidia-smi") is None:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def advise(processes: int, gpus: int, cores: int) -> str | None:
    """Return advice about the number of processes, or None if it suits.

    Raises UserError if some would have no GPU, or if a recipe for many GPUs would overload a machine without any.
    """
    if 0 < gpus < processes:
        raise UserError(
            f"resources.processes: must be at most the {gpus} visible GPUs, one for each process (given {processes})"
        )
    if gpus == 0 and processes > 8 * cores:
        raise UserError(
            f"resources.processes: {processes} processes are far too many for {cores} CPU cores and no GPU; "
            "this recipe is for another machine, or set processes=1"
        )
    if gpus > 1 and processes < gpus:
        return f"{gpus} GPUs are visible and this run uses {processes}; processes={gpus} uses them all"
    return None
