"""Print the output of a stage's job, over all its attempts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from launch.slurm import scheduler
from launch.slurm.jobs import JobRecord, latest_job, read_jobs
from pipeline.config.reader import read_run_config
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.running.stage import place_stages
from stages import STAGES

_POLL_SECONDS = 0.5
_ASK_SLURM_SECONDS = 15.0


def print_logs(run: Path, stage: str, follow: bool) -> int:
    """Print the log of the stage's latest job; with `follow` also new output, until the job has ended."""
    record = _record(run, stage)
    path = Path(record.log)
    if not follow:
        if not path.exists():
            raise UserError(f"{path}: job {record.job} has not printed anything yet ({_state(record)})")
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.flush()
        return EXIT_DONE
    follow_file(path, sys.stdout.buffer, lambda: _is_alive(record), time.sleep)
    return EXIT_DONE


def follow_file(path: Path, out: BinaryIO, is_alive: Callable[[], bool], sleep: Callable[[float], None]) -> None:
    """Copy a file to `out` as it grows, from before it exists until its writer is no longer alive."""
    position, since_asked = 0, 0.0
    last_round = not is_alive()
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                out.write(file.read())
                position = file.tell()
            out.flush()
        if last_round:
            return
        sleep(_POLL_SECONDS)
        since_asked += _POLL_SECONDS
        if since_asked >= _ASK_SLURM_SECONDS:
            since_asked, last_round = 0.0, not is_alive()


def _record(run: Path, name: str) -> JobRecord:
    config = read_run_config(run)
    placed = place_stages(config, run, STAGES)
    jobs = read_jobs(run)
    if name not in placed:
        raise UserError(f"{run}: this run has no stage '{name}' (its stages: {', '.join(placed)})")
    record = latest_job(jobs, name, placed[name].key)
    if record is None:
        stages = sorted({job.stage for job in jobs})
        there = f"; it has jobs of {', '.join(stages)}" if stages else "; it was never submitted"
        raise UserError(f"{run}: stage '{name}' has no job of this run's config{there}")
    return record


def _state(record: JobRecord) -> str:
    known = scheduler.look_up([record.job])
    return known[record.job].state.lower() if record.job in known else "SLURM no longer knows it"


def _is_alive(record: JobRecord) -> bool:
    known = scheduler.look_up([record.job])
    return record.job in known and known[record.job].is_alive
