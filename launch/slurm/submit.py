"""Queue the unfinished stages of a recipe on a SLURM cluster, each as a job after its inputs."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from launch.console import say, show, table
from launch.job_graph import Stages
from launch.plan import warn_of_refusal
from launch.slurm import scheduler
from launch.slurm.jobs import JobRecord, latest_job, write_jobs, write_script
from launch.slurm.profile import Shape, naming_line
from launch.slurm.script import render
from launch.slurm.submission import Submission
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.interpreter import command_line
from pipeline.store.lock import exclusive
from pipeline.tracking.wording import duration


def submit(submission: Submission) -> int:
    """Queue the missing jobs of one run, or print them. Returns the exit code of the contract."""
    scripts = {name: render(submission.script(name)) for name in submission.missing}
    if submission.request.dry_run:
        print_dry_run(submission, scripts, "afterok")
        return EXIT_DONE
    jobs = list(submission.jobs)
    if scripts:
        submission.set_up()
        with exclusive(submission.run):
            submission.check_still_so()
            jobs = _queue(submission, scripts)
    _print_jobs(submission, jobs)
    for note in submission.notes:
        say(note)
    if not scripts:
        say("nothing new to submit")
    print_advice(submission.run, submission.placed)
    return EXIT_DONE


def _queue(submission: Submission, scripts: Mapping[str, str]) -> list[JobRecord]:
    """Submit every script after the jobs it waits for; each is recorded before the next one is submitted."""
    run, missing, jobs = submission.run, submission.missing, list(submission.jobs)
    paths = {name: write_script(run, f"{name}-{missing[name].key}", text) for name, text in scripts.items()}
    for name, path in paths.items():
        # All of them before any of them: half a job graph helps nobody.
        with naming_line(submission.request.profile, name):
            scheduler.check(path)
    ids = {name: job.job for name, job in submission.alive.items()}
    for name, path in paths.items():
        after = tuple(ids[before] for before in missing[name].inputs if before in ids)
        ids[name] = scheduler.submit(path, after)
        log = str(submission.script(name).log).replace("%j", ids[name])
        profile = str(submission.request.profile)
        jobs.append(JobRecord(name, missing[name].key, ids[name], profile, round(time.time(), 3), after, log))
        write_jobs(run, jobs)
    return jobs


def print_dry_run(submission: Submission, scripts: Mapping[str, str], condition: scheduler.Condition) -> None:
    """Print the jobs, the batches, and what is missing here for them; or the input of sbatch, if that is asked for."""
    if not scripts:
        say("nothing to submit: every stage is done")
        return
    if submission.request.dry_run == "scripts":
        for name, text in scripts.items():
            after = [f"<job of {before}>" for before in submission.placed[name].inputs if before in scripts]
            say(f"# {'=' * 8} {name}: sbatch {' '.join(scheduler.submit_options(after, condition))}\n{text}")
        return
    rows = table("stage", "state", "partition", "nodes", "GPUs", "time limit", "waits for")
    for name, stage in submission.chosen.items():
        shape, waits_for = submission.profile.shapes()[name], [each for each in stage.inputs if each in scripts]
        cells = ("to submit", shape.partition or "", *describe_size(shape), ", ".join(waits_for))
        rows.add_row(name, *(cells if name in scripts else ("done",)))
    show(rows)
    say("")
    for note in submission.notes:
        say(note)
    warn_of_refusal(submission.config, submission.chosen)
    if shutil.which("sbatch") is None:
        say("\nwarning: sbatch is no command of this machine; submit on the cluster's login node")
    say("\nthe scripts: the same command with --dry-run=scripts")


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


def describe_size(shape: Shape) -> tuple[str, str, str]:
    """Return nodes, GPUs and time limit of a job, for a table."""
    return str(shape.nodes), str(shape.nodes * shape.gpus_per_node), duration(60 * shape.minutes)


def print_advice(run: Path, placed: Stages) -> None:
    """Print the next commands for the user."""
    longest = next((name for name, stage in placed.items() if stage.stage.is_training), list(placed)[-1])
    shown = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    say(f"how far it is: {command_line('status', shown)}")
    say(f"what a job prints: {command_line('logs', shown, longest, '-f')}")
    say(f"end it: {command_line('cancel', shown)}")
    say(f"scripts and logs: {shlex.quote(str(shown / 'jobs'))}")
