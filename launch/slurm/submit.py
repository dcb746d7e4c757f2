"""Queue the unfinished stages of a run or a sweep on a SLURM cluster, each as a job after its inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.refusal import naming_member
from launch.slurm import scheduler
from launch.slurm.batches import Batch, dependencies, job_id, plan_batches, waited_for
from launch.slurm.jobs import JobRecord, read_jobs, write_jobs, write_script
from launch.slurm.overview import print_dry_run, print_queued
from launch.slurm.profile import naming_line
from launch.slurm.scheduler import QueuedJob
from launch.slurm.script import JobScript, render
from launch.slurm.submission import Submission, SubmitRequest, live_jobs, prepare
from launch.sweep import read_sweep, set_up_runs
from pipeline.config.sweep import is_member, members_of
from pipeline.ground.errors import EXIT_DONE
from pipeline.running.stage import parts_of, refuse_busy
from pipeline.store.lock import exclusive


def submit_runs(request: SubmitRequest) -> int:
    """Queue the missing jobs of a run or of all members of a sweep, or print them. Returns the exit code."""
    sweep = read_sweep((request.config, *request.other_configs), request.overrides, request.run, request.seeds)
    sweep = dataclasses.replace(sweep, folder=sweep.folder.absolute())
    runs = [sweep.run_of(member) for member in sweep.members]
    # Those that other commands have queued, too.
    together = members_of(sweep.folder.parent if is_member(sweep.folder) else sweep.folder)
    records = {run: read_jobs(run) for run in (*runs, *together)}
    queued = {} if request.dry_run else live_jobs(records.values())
    recorded = [job for jobs in records.values() for job in jobs if not job.is_cancelled]
    coming = recorded if request.dry_run else queued
    members = []
    for each, run in zip(sweep.members, runs, strict=True):
        with naming_member(each.name):
            members.append(prepare(request, each.config, run, records[run], queued, coming))
    batches = plan_batches(members)
    scripts = [array_script(sweep.folder, members, batch) for batch in batches]
    if request.dry_run:
        print_dry_run(sweep, members, batches, scripts)
        return EXIT_DONE
    jobs = [[*member.jobs, *_adopted(member, queued)] for member in members]
    grown = [(member, known) for member, known in zip(members, jobs, strict=True) if len(known) > len(member.jobs)]
    ids: list[str] = []
    if batches or grown:
        for part in (part for member in members for part in parts_of(member.missing).values()):
            refuse_busy(part)
        set_up_runs(sweep, [(member.run, member.config, member.missing) for member in members], request.accept_changes)
        with contextlib.ExitStack() as locks:
            for member in members:
                locks.enter_context(exclusive(member.run))
                member.check_still_so()
            for member, known in grown:
                write_jobs(member.run, known)
            ids = _queue(members, batches, scripts, jobs)
    print_queued(sweep, members, batches, ids, jobs)
    return EXIT_DONE


def _adopted(member: Submission, queued: Mapping[JobRecord, QueuedJob]) -> list[JobRecord]:
    """Return the records of jobs queued for other members that this one waits for as well."""
    own, wanted = {record.job for record in member.jobs}, {job.job for job in member.alive.values()}
    return list({record.job: record for record in queued if record.job in wanted - own}.values())


def array_script(folder: Path, members: Sequence[Submission], batch: Batch) -> JobScript:
    """Return the script of a batch; that of a single job belongs to its run, that of an array to the sweep."""
    script = members[batch.numbers[0]].script(batch.stage)
    if not batch.is_array:
        return script
    tasks = {number: (members[number].run, members[number].placed[batch.stage].key) for number in batch.numbers}
    log = folder / "jobs" / f"{batch.stage}-%A_%a.log"
    return dataclasses.replace(script, run=folder, log=log, tasks=tasks)


def _queue(
    members: Sequence[Submission], batches: Sequence[Batch], scripts: Sequence[JobScript], jobs: list[list[JobRecord]]
) -> list[str]:
    """Submit every batch after those it waits for; each is recorded before the next one is submitted."""
    paths = [_write(batch, script) for batch, script in zip(batches, scripts, strict=True)]
    for batch, path in zip(batches, paths, strict=True):
        # All of them before any of them: half a job graph helps nobody.
        with naming_line(members[0].request.profile, batch.stage):
            scheduler.check(path)
    ids: list[str] = []
    for batch, path, script in zip(batches, paths, scripts, strict=True):
        ids.append(scheduler.submit(path, *dependencies(batch, batches, ids)))
        task_of = {members[number].placed[batch.stage].key: number for number in batch.numbers}
        for member, known in zip(members, jobs, strict=True):
            key = member.placed[batch.stage].key if batch.stage in member.missing else ""
            if (number := task_of.get(key)) is None:
                continue
            job, waits_for = job_id(batch, ids[-1], number), waited_for(batch, batches, ids, number)
            log = str(script.log).replace("%A_%a" if batch.is_array else "%j", job)
            profile = str(member.request.profile)
            known.append(JobRecord(batch.stage, key, job, profile, round(time.time(), 3), waits_for, log))
            write_jobs(member.run, known)
    return ids


def _write(batch: Batch, script: JobScript) -> Path:
    name = f"{batch.stage}-{batch.numbers[0]}" if batch.is_array else f"{batch.stage}-{script.key}"
    return write_script(script.run, name, render(script))
