"""Cancel a run's jobs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from launch.console import say
from launch.slurm import scheduler
from launch.slurm.jobs import read_jobs, write_jobs
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.interpreter import command_line
from pipeline.store.lock import exclusive


def cancel_run(run: Path) -> int:
    """Cancel all jobs of the run that are queued or running, last stage first. Returns the exit code of the contract.

    A running stage receives a request to stop, and saves if the cluster's KillWait is long enough; earlier checkpoints
    stay.
    """
    read_run_config(run)
    with exclusive(run):
        jobs = read_jobs(run)
        known = scheduler.look_up([record.job for record in jobs])
        alive = [record for record in jobs if record.job in known and known[record.job].is_alive]
        if not alive:
            say(f"{run}: no job of this run is queued or running")
            return EXIT_DONE
        # Recorded first: a job that ends now must not be taken for one that will be requeued.
        write_jobs(
            run, [dataclasses.replace(record, is_cancelled=record.is_cancelled or record in alive) for record in jobs]
        )
        scheduler.cancel([record.job for record in reversed(alive)])
    for record in alive:
        say(f"cancelled {record.stage} ({record.job}), which was {known[record.job].state.lower()}")
    say(f"to go on: {command_line('submit', run / RUN_CONFIG, '--profile', alive[-1].profile, '--run', run)}")
    return EXIT_DONE
