"""The job graph of an ensemble, several recipes or seeds: one job array a stage, with a task for each member."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from launch.console import say, show, table
from launch.run_directory import default_run
from launch.slurm import scheduler
from launch.slurm.jobs import JobRecord, write_jobs, write_script
from launch.slurm.profile import naming_line
from launch.slurm.script import JobScript, render
from launch.slurm.submission import Submission, SubmitRequest, prepare
from launch.slurm.submit import describe_size, print_advice, print_dry_run, submit
from pipeline.config.reader import load_config
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.store.lock import exclusive


def submit_runs(request: SubmitRequest, others: Sequence[Path], seeds: Sequence[int]) -> int:
    """Queue the job graph of a run; with other recipes or seeds, that of every member. Returns the exit code.

    The members' directories are below --run, by default runs/<name of the first recipe>-ensemble. If the members do not
    all miss the same stages, or have jobs in the queue, each gets jobs of its own.
    """
    if not others and not seeds:
        return submit(prepare(request))
    folder = request.run or Path(f"{default_run(load_config(request.config, request.overrides))}-ensemble")
    members = [prepare(member) for member in member_requests(request, folder, others, seeds)]
    shared = {tuple(member.missing) for member in members}
    if len(shared) == 1 and not any(member.alive for member in members):
        return _submit_arrays(folder.absolute(), members)
    for member in members:
        say(f"{member.run.name}:")
        submit(member)
        say("")
    return EXIT_DONE


def member_requests(
    request: SubmitRequest, folder: Path, others: Sequence[Path], seeds: Sequence[int]
) -> list[SubmitRequest]:
    """Return a request for each recipe and seed, each with its directory. Raises UserError if two have the same
    directory."""
    requests = {}
    chosen: Sequence[int | None] = seeds or (None,)
    for config in (request.config, *others):
        name = load_config(config, request.overrides).name
        for seed in chosen:
            parts = ([name] if others else []) + ([] if seed is None else [f"seed{seed}"])
            overrides = request.overrides if seed is None else (*request.overrides, f"seed={seed}")
            run = folder / "-".join(parts)
            if run in requests:
                raise UserError(f"{run}: two members of the ensemble would share this directory; name each once")
            requests[run] = dataclasses.replace(request, config=config, overrides=overrides, run=run)
    return list(requests.values())


def array_script(folder: Path, members: Sequence[Submission], stage: str) -> JobScript:
    """Return the script of a stage for all members; its tasks are in the members' order."""
    first = members[0]
    return dataclasses.replace(
        first.script(stage),
        run=folder,
        log=folder / "jobs" / f"{stage}-%A_%a.log",
        members=tuple((member.run, member.placed[stage].key) for member in members),
    )


def _submit_arrays(folder: Path, members: Sequence[Submission]) -> int:
    first = members[0]
    scripts = {name: render(array_script(folder, members, name)) for name in first.missing}
    if first.request.dry_run:
        names = ", ".join(member.run.name for member in members)
        say(f"{len(members)} members, each a task of every job array: {names}")
        print_dry_run(first, scripts, "aftercorr")
        return EXIT_DONE
    if not scripts:
        say(f"nothing to submit: all {len(members)} members are done")
        return EXIT_DONE
    for member in members:
        member.set_up()
    with contextlib.ExitStack() as locks:
        for member in members:
            locks.enter_context(exclusive(member.run))
            member.check_still_so()
        _queue(folder, members, scripts)
    for note in first.notes:
        say(note)
    say(f"members: {', '.join(member.run.name for member in members)}")
    print_advice(first.run, first.placed)
    return EXIT_DONE


def _queue(folder: Path, members: Sequence[Submission], scripts: dict[str, str]) -> None:
    paths = {name: write_script(folder, name, text) for name, text in scripts.items()}
    for name, path in paths.items():
        with naming_line(members[0].request.profile, name):
            scheduler.check(path)
    jobs = [list(member.jobs) for member in members]
    ids: dict[str, str] = {}
    rows = table("stage", "job array", "tasks", "nodes a task", "GPUs a task", "time limit", "waits for, task by task")
    for name, path in paths.items():
        before = [stage for stage in members[0].placed[name].inputs if stage in ids]
        ids[name] = scheduler.submit(path, [ids[stage] for stage in before], "aftercorr")
        for number, member in enumerate(members):
            job = f"{ids[name]}_{number}"
            log = str(array_script(folder, members, name).log).replace("%A_%a", job)
            after = tuple(f"{ids[stage]}_{number}" for stage in before)
            profile = str(member.request.profile)
            record = JobRecord(name, member.placed[name].key, job, profile, round(time.time(), 3), after, log)
            jobs[number].append(record)
            write_jobs(member.run, jobs[number])
        size = describe_size(members[0].profile.shapes()[name])
        rows.add_row(name, ids[name], str(len(members)), *size, ", ".join(f"{s} ({ids[s]})" for s in before))
    show(rows)
    say("")
