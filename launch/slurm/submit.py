"""Queue the unfinished stages of a run or a sweep on a SLURM cluster, each as a job after its inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from launch.command import command_line
from launch.console import say, show, table
from launch.job_graph import Stages
from launch.slurm import scheduler
from launch.slurm.batches import Batch, dependencies, job_id, plan_batches, waited_for, with_jobs_of_others
from launch.slurm.jobs import JobRecord, latest_job, write_jobs, write_script
from launch.slurm.profile import Shape
from launch.slurm.script import JobScript, render
from launch.slurm.submission import Submission, SubmitRequest, prepare
from launch.sweep import Sweep, read_sweep, set_up_runs
from pipeline.ground.errors import EXIT_DONE
from pipeline.store.lock import exclusive
from pipeline.tracking.wording import clock_time


def submit_runs(request: SubmitRequest) -> int:
    """Queue the missing jobs of a run or of all members of a sweep, or print them. Returns the exit code."""
    sweep = read_sweep((request.config, *request.other_configs), request.overrides, request.run, request.seeds)
    sweep = dataclasses.replace(sweep, folder=sweep.folder.absolute())
    members = [prepare(request, member.config, sweep.run_of(member)) for member in sweep.members]
    members = with_jobs_of_others(members)
    batches = plan_batches(members)
    scripts = [array_script(sweep.folder, members, batch) for batch in batches]
    if request.dry_run:
        _print_scripts(batches, scripts)
        return EXIT_DONE
    jobs = [[*member.jobs, *_adopted(member, members)] for member in members]
    ids: list[str] = []
    if batches:
        for member in members:
            member.check_idle()
        set_up_runs(sweep, [(member.run, member.config, member.missing) for member in members], request.accept_changes)
        with contextlib.ExitStack() as locks:
            for member in members:
                locks.enter_context(exclusive(member.run))
                member.check_still_so()
            ids = _queue(members, batches, scripts, jobs)
    _print_queued(sweep, members, batches, ids, jobs)
    return EXIT_DONE


def _adopted(member: Submission, members: Sequence[Submission]) -> list[JobRecord]:
    """Return the records of jobs queued for other members that this one waits for as well."""
    own, wanted = {record.job for record in member.jobs}, {job.job for job in member.alive.values()}
    found = {record.job: record for other in members for record in other.jobs if record.job in wanted - own}
    return list(found.values())


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
    for path in paths:
        # All of them before any of them: half a job graph helps nobody.
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


def _print_scripts(batches: Sequence[Batch], scripts: Sequence[JobScript]) -> None:
    """Print the input of sbatch."""
    for batch, script in zip(batches, scripts, strict=True):
        after = dependencies(batch, batches, [f"<job of {each.stage}>" for each in batches])
        say(f"# {'=' * 8} {batch.stage}: sbatch {' '.join(scheduler.submit_options(*after))}\n{render(script)}")
    if not batches:
        say("nothing to submit: every stage is done")


def _print_queued(
    sweep: Sweep,
    members: Sequence[Submission],
    batches: Sequence[Batch],
    ids: Sequence[str],
    jobs: list[list[JobRecord]],
) -> None:
    if sweep.is_single:
        _print_jobs(members[0], jobs[0])
    elif batches:
        _print_batches(members, batches, ids)
    for note in dict.fromkeys(note for member in members for note in member.notes):
        say(note)
    if not sweep.is_single:
        say(f"members: {', '.join(member.name for member in sweep.members)}")
    if not batches:
        say("nothing new to submit")
    print_advice(sweep.folder, members[0].run, members[0].placed)


def _print_batches(members: Sequence[Submission], batches: Sequence[Batch], ids: Sequence[str]) -> None:
    rows = table("stage", "job", "tasks", "nodes a task", "GPUs a task", "time limit", "waits for")
    stage_of = dict(zip(ids, (batch.stage for batch in batches), strict=True))
    for batch, job in zip(batches, ids, strict=True):
        all_of, task_by_task = dependencies(batch, batches, ids)
        waits = [f"{stage_of.get(each.partition('_')[0], 'queued')} ({each})" for each in all_of]
        waits += [f"{stage_of[each]} ({each}), task by task" for each in task_by_task]
        size = describe_size(members[batch.numbers[0]].profile.shapes()[batch.stage])
        rows.add_row(batch.stage, job, str(len(batch.numbers)), *size, ", ".join(waits))
    show(rows)
    say("")


def _print_jobs(submission: Submission, jobs: list[JobRecord]) -> None:
    rows = table("stage", "job", "state", "nodes", "GPUs", "time limit", "waits for")
    stage_of = {job.job: job.stage for job in jobs if job.stage in submission.placed}
    for name, stage in submission.chosen.items():
        if stage.is_done:
            rows.add_row(name, "", "done", "", "", "", "")
            continue
        record = latest_job(jobs, name, stage.key)
        assert record is not None, f"{name} is neither done nor queued"
        waits_for = ", ".join(
            f"{stage_of[job]} ({job})" for job in record.waits_for if not submission.placed[stage_of[job]].is_done
        )
        queued = submission.alive.get(name)
        if queued is None:
            shape = submission.profile.shapes()[name]
            rows.add_row(name, record.job, "submitted", *describe_size(shape), waits_for)
        else:
            rows.add_row(name, record.job, f"already {queued.state.lower()}", "", "", queued.limit, waits_for)
    show(rows)
    say("")


def describe_size(shape: Shape) -> tuple[str, str, str]:
    """Return nodes, GPUs and time limit of a job, for a table."""
    return str(shape.nodes), str(shape.nodes * shape.gpus_per_node), clock_time(60 * shape.minutes)


def print_advice(folder: Path, run: Path, placed: Stages) -> None:
    """Print the next commands for the user: for a sweep or a run, and for the log of one run."""
    longest = next((name for name, stage in placed.items() if stage.stage.is_training), list(placed)[-1])
    shown, logged = (
        path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path for path in (folder, run)
    )
    say(f"how far it is: {command_line('status', shown)}")
    say(f"what a job prints: {command_line('logs', logged, longest, '-f')}")
    say(f"end it: {command_line('cancel', shown)}")
    say(f"scripts and logs: {shlex.quote(str(shown / 'jobs'))}")
