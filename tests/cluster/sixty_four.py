"""`python -m tests.cluster.sixty_four`: 64 processes train a small network on a real SLURM of 8 nodes with 8 GPUs each.

The GPUs are stand-ins and the profile is the one of such nodes as it is. Then one process does the same, and its losses
must be the same. It needs root, memory and minutes, and is therefore no test.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from pipeline.config.reader import write_run_config
from pipeline.tracking.events import read_events
from tests.cluster.forked import forking_python
from tests.cluster.runs import ClusterRun
from tests.cluster.slurm import Cluster, why_unavailable
from tests.conftest import REPOSITORY
from tests.images import write_image_folders
from tests.processes import run_stage_to_end
from tests.recipes import small_recipe

_PROFILE = REPOSITORY / "slurm" / "profiles" / "8x8_gpu.yaml"


def main() -> int:
    """Run both, and print what the commands print and how far the losses differ."""
    reason = why_unavailable()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="sixty-four-") as name:
        folder = Path(name)
        images = write_image_folders(folder / "images", num_classes=4, train_per_class=1024, val_per_class=64)
        config = small_recipe(
            images,
            # What each process draws for itself is another thing with another number of them.
            model={"dropout": 0.0},
            augmentation={"pixel_jitter": 0.0},
            train={"epochs": 2, "frozen_epochs": 0, "global_batch": 2048, "max_micro_batch": 32},
            schedule={"drop_epochs": [], "warmup_epochs": 1.0},
            tracking={"log_every_steps": 1},
            loader={"threads": 1},
        )
        (folder / "slurm").mkdir()
        cluster = Cluster(folder / "slurm", nodes=8, cpus=64, gpus=8)
        try:
            cluster.start()
            with forking_python(folder) as python:
                run = ClusterRun(cluster, folder, config)
                run.profile.write_text(f"{_PROFILE.read_text()}python: {python}\n")
                many = _train_on_cluster(run)
        finally:
            cluster.stop()
        alone = folder / "alone"
        alone.mkdir()
        write_run_config(alone, config)
        for stage in ("prepare", "build"):
            for part in run.stage(stage).parts:
                shutil.copytree(part.directory, alone / part.directory.name)
        run_stage_to_end(alone, "train")
        one = _losses(alone / run.stage("train").directory.name)
    print("step  loss of 64 processes  loss of 1 process")
    for step, (first, second) in enumerate(zip(many, one, strict=True), start=1):
        print(f"{step:4}  {first:20.6f}  {second:17.6f}")
    return 0 if all(abs(a - b) < 1e-3 for a, b in zip(many, one, strict=True)) else 1


def _train_on_cluster(run: ClusterRun) -> list[float]:
    before = _memory_in_use()
    print(run.submit().output)
    began = run.wait_for_attempt("train", 1)
    run.wait_for_step_after(began)
    print(run.status())
    print(f"memory: {_memory_in_use() - before:.1f} GB more in use than before\n")
    run.wait_for_state(run.stages_behind("train")[-1], "COMPLETED")
    print(run.status())
    print(run.log("train"))
    return _losses(run.stage("train").directory)


def _losses(directory: Path) -> list[float]:
    return [event["loss"] for event in read_events(directory, "train")]


def _memory_in_use() -> float:
    """Of the whole machine, in GB."""
    fields = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    return (int(fields["MemTotal"]) - int(fields["MemAvailable"])) / 1e6


if __name__ == "__main__":
    sys.exit(main())
