"""Output of `submit`: the jobs that it would queue or has queued, and the next commands."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from launch.console import say, show, table
from launch.job_graph import Stages
from launch.refusal import warn_of_refusal
from launch.slurm import scheduler
from launch.slurm.batches import Batch, dependencies
from launch.slurm.jobs import JobRecord, latest_job
from launch.slurm.profile import Shape
from launch.slurm.script import JobScript, render
from launch.slurm.submission import Submission
from launch.sweep import Sweep
from pipeline.ground.interpreter import command_line
from pipeline.tracking.wording import duration


def print_dry_run(
    sweep: Sweep, members: Sequence[Submission], batches: Sequence[Batch], scripts: Sequence[JobScript]
) -> None:
    """Print the jobs, the batches, and what is missing here for them; or the input of sbatch, if that is asked for."""
    if not batches:
        say("nothing to submit: every stage is done")
        return
    names = [f"<job of {each.stage}>" for each in batches]
    if members[0].request.dry_run == "scripts":
        for batch, script in zip(batches, scripts, strict=True):
            options = scheduler.submit_options(*dependencies(batch, batches, names))
            say(f"# {'=' * 8} {batch.stage}: sbatch {' '.join(options)}\n{render(script)}")
        return
    if not sweep.is_single:
        say(f"{len(members)} members: {', '.join(member.name for member in sweep.members)}\n")
    rows = table(
        "stage", "state" if sweep.is_single else "tasks", "partition", "nodes", "GPUs", "time limit", "waits for"
    )
    first, missing = members[0], {batch.stage for batch in batches}
    for name in first.chosen if sweep.is_single else ():
        if name not in missing:
            rows.add_row(name, "done")
    for batch in batches:
        shape = first.profile.shapes()[batch.stage]
        waits_for = [batches[wait.batch].stage for wait in batch.waits if wait.batch is not None]
        state = "to submit" if sweep.is_single else str(len(batch.numbers))
        rows.add_row(batch.stage, state, shape.partition or "", *_describe_size(shape), ", ".join(waits_for))
    show(rows)
    say("")
    for note in dict.fromkeys(note for member in members for note in member.notes):
        say(note)
    named = zip(sweep.members, members, strict=True)
    warn_of_refusal([(of.name, member.config, member.chosen) for of, member in named])
    if shutil.which("sbatch") is None:
        say("\nwarning: sbatch is no command of this machine; submit on the cluster's login node")
    say("\nthe scripts: the same command with --dry-run=scripts")


def print_queued(
    sweep: Sweep,
    members: Sequence[Submission],
    batches: Sequence[Batch],
    ids: Sequence[str],
    jobs: Sequence[Sequence[JobRecord]],
) -> None:
    """Print what is queued now, and what to type next. `ids` are those of the batches, `jobs` all of each member."""
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
    _print_advice(sweep.folder, members[0].run, members[0].placed)


def _print_batches(members: Sequence[Submission], batches: Sequence[Batch], ids: Sequence[str]) -> None:
    rows = table("stage", "job", "tasks", "nodes a task", "GPUs a task", "time limit", "waits for")
    stage_of = dict(zip(ids, (batch.stage for batch in batches), strict=True))
    for batch, job in zip(batches, ids, strict=True):
        all_of, task_by_task = dependencies(batch, batches, ids)
        waits = [f"{stage_of.get(each.partition('_')[0], 'queued')} ({each})" for each in all_of]
        waits += [f"{stage_of[each]} ({each}), task by task" for each in task_by_task]
        size = _describe_size(members[batch.numbers[0]].profile.shapes()[batch.stage])
        rows.add_row(batch.stage, job, str(len(batch.numbers)), *size, ", ".join(waits))
    show(rows)
    say("")


def _print_jobs(submission: Submission, jobs: Sequence[JobRecord]) -> None:
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
            rows.add_row(name, record.job, "submitted", *_describe_size(shape), waits_for)
        else:
            rows.add_row(
                name,
                record.job,
                f"already {queued.state.lower()}",
                "",
                "",
                scheduler.spell_time(queued.limit),
                waits_for,
            )
    show(rows)
    say("")


def _describe_size(shape: Shape) -> tuple[str, str, str]:
    """Return nodes, GPUs and time limit of a job, for a table."""
    return str(shape.nodes), str(shape.nodes * shape.gpus_per_node), duration(60 * shape.minutes)


def _print_advice(folder: Path, run: Path, placed: Stages) -> None:
    """Print the next commands for the user: for a sweep or a run, and for the log of one run."""
    longest = next((name for name, stage in placed.items() if stage.stage.is_training), list(placed)[-1])
    shown, logged = (
        path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path for path in (folder, run)
    )
    say(f"how far it is: {command_line('status', shown)}")
    say(f"what a job prints: {command_line('logs', logged, longest, '-f')}")
    say(f"end it: {command_line('cancel', shown)}")
    say(f"scripts and logs: {shlex.quote(str(shown / 'jobs'))}")
