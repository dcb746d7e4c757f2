"""Cancel a run's jobs."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from launch.console import say
from launch.slurm import scheduler
from launch.slurm.jobs import read_jobs, write_jobs
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.config.sweep import is_member, members_of
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.interpreter import command_line
from pipeline.store.lock import exclusive


def cancel_run(run: Path) -> int:
    """Cancel all jobs of a run, or of a sweep, that are queued or running, last stage first. Returns the exit code.

    A running stage receives a request to stop, and saves if the cluster's KillWait is long enough; earlier checkpoints
    stay. Of a single member, jobs that others wait for too are left to those.
    """
    runs = [member for member in members_of(run) if (member / RUN_CONFIG).is_file()] or [run]
    for each in runs:
        read_run_config(each)
    with contextlib.ExitStack() as locks:
        # With the sweep's own lock, since two members that end at once would leave a job to each other.
        for each in [*runs, run.absolute().parent] if is_member(run) else runs:
            locks.enter_context(exclusive(each))
        jobs = {each: read_jobs(each) for each in runs}
        submitted = {record.job: record for records in jobs.values() for record in records}
        known = scheduler.look_up(submitted)
        alive = {job: record for job, record in submitted.items() if job in known and known[job].is_alive}
        if not alive:
            say(f"{run}: no job of this run is queued or running")
            return EXIT_DONE
        left = alive.keys() & _wanted_by_others(run)
        # Recorded first: a job that ends now must not be taken for one that will be requeued.
        for each, records in jobs.items():
            own = [record for record in records if record.job not in left]
            write_jobs(
                each, [dataclasses.replace(one, is_cancelled=one.is_cancelled or one.job in alive) for one in own]
            )
        if ended := [job for job in alive if job not in left]:
            scheduler.cancel(reversed(ended))
    for job, record in alive.items():
        if job in left:
            say(f"left {record.stage} ({job}), which other members of the sweep wait for")
        else:
            say(f"cancelled {record.stage} ({job}), which was {known[job].state.lower()}")
    if members_of(run):
        say("to go on: submit the same sweep again, or single runs of it")
    else:
        say(f"to go on: {command_line('submit', run / RUN_CONFIG, '--profile', record.profile, '--run', run)}")
    return EXIT_DONE


def _wanted_by_others(run: Path) -> set[str]:
    """Return the jobs that are also those of other members of the run's sweep, which have not been cancelled."""
    if not is_member(run):
        return set()
    others = [other for other in members_of(run.absolute().parent) if other.name != run.absolute().name]
    return {job.job for other in others for job in read_jobs(other) if not job.is_cancelled}
