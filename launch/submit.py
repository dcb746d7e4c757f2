"""Queue the stages of a recipe that are not done on a SLURM cluster, each as a job behind those it reads."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from pathlib import Path

from launch.chain import Stages, choose_stages
from launch.command import command_line
from launch.console import say, show, table
from launch.run_directory import default_run, set_up
from launch.slurm import scheduler
from launch.slurm.fit import check_fit, training_processes
from launch.slurm.jobs import JobRecord, latest_job, log_path, read_jobs, write_jobs, write_script
from launch.slurm.profile import Profile, Shape, load_profile
from launch.slurm.scheduler import QueuedJob
from launch.slurm.script import JobScript, render
from pipeline.config.reader import load_config
from pipeline.config.schema import Config
from pipeline.errors import EXIT_DONE, UserError
from pipeline.runs.lock import DirectoryBusy, busy_message, exclusive, lock_holder
from pipeline.runs.stage import PlacedStage, place_stages
from pipeline.tracking.wording import clock_time
from stages import STAGES


@dataclasses.dataclass(frozen=True)
class SubmitRequest:
    """What was asked for on the command line."""

    config: Path
    profile: Path
    overrides: tuple[str, ...] = ()
    run: Path | None = None
    only: str | None = None
    first: str | None = None
    accept_changes: bool = False
    dry_run: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> SubmitRequest:
        """From parsed arguments."""
        fields = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)}
        return cls(**{**fields, "overrides": tuple(arguments.overrides)})

    def recipe(self) -> tuple[str, ...]:
        """The part of the command line that says what to submit and where, without which stages."""
        run = () if self.run is None else ("--run", str(self.run))
        return (str(self.config), "--profile", str(self.profile), *self.overrides, *run)


@dataclasses.dataclass(frozen=True)
class _Chain:
    """What is to be done, and what SLURM has of it."""

    run: Path
    placed: Stages
    chosen: Stages
    alive: dict[str, QueuedJob]
    """Jobs by stage that are queued or running for exactly these stages."""

    def missing(self) -> dict[str, PlacedStage]:
        """The stages that need a job."""
        return {name: stage for name, stage in self.chosen.items() if not stage.is_done and name not in self.alive}


def submit_stages(request: SubmitRequest) -> int:
    """Check everything, then queue; returns the exit code of the contract."""
    config = load_config(request.config, request.overrides)
    profile = load_profile(request.profile)
    run = (request.run or default_run(config)).absolute()
    jobs = read_jobs(run)
    chain = _chain(request, config, run, [] if request.dry_run else jobs)
    missing = chain.missing()
    notes = check_fit(config, profile, request.profile, missing, chain.placed)
    config = _with_world_size(config, profile, missing)
    scripts = {name: render(_job_script(stage, run, profile)) for name, stage in missing.items()}
    if request.dry_run:
        _print_scripts(chain, scripts)
        return EXIT_DONE
    _check_nobody_works_there(missing)
    if missing:
        set_up(run, config, missing.values(), request.accept_changes)
        with exclusive(run):
            # Another `submit` may have been faster.
            if read_jobs(run) != jobs:
                raise UserError(f"{run}: another `submit` or `cancel` was at work at the same moment; try again")
            jobs = _queue(chain, scripts, jobs, request)
    _print_jobs(chain, jobs, profile)
    for note in notes:
        say(note)
    _print_advice(run, bool(missing))
    return EXIT_DONE


def _chain(request: SubmitRequest, config: Config, run: Path, jobs: list[JobRecord]) -> _Chain:
    placed = place_stages(config, run, STAGES)
    records = {name: latest_job(jobs, name, stage.key) for name, stage in placed.items() if not stage.is_done}
    known = scheduler.look_up([record.job for record in records.values() if record is not None])
    alive = {
        name: known[record.job]
        for name, record in records.items()
        if record is not None and record.job in known and known[record.job].is_alive
    }
    ending = [
        record for name, record in records.items() if name in alive and record is not None and record.is_cancelled
    ]
    if ending:
        named = ", ".join(f"{record.job} ({record.stage})" for record in ending)
        raise UserError(f"{run}: cancelled jobs are still ending: {named}; try again in a moment")
    chosen = choose_stages(placed, request.only, request.first, request.recipe(), "submit", alive)
    return _Chain(run, placed, chosen, alive)


def _with_world_size(config: Config, profile: Profile, chosen: Stages) -> Config:
    """The config that the run keeps, with the processes that the profile gives: `status` reckons with them."""
    processes = training_processes(config, profile, chosen)
    resources = config.resources.model_copy(update={"processes": processes})
    return config.model_copy(update={"resources": resources})


def _job_script(stage: PlacedStage, run: Path, profile: Profile) -> JobScript:
    return JobScript(
        stage=stage.name,
        key=stage.key,
        run=run,
        log=log_path(run, stage.name, stage.key),
        directory=Path.cwd(),
        shape=profile.shapes()[stage.name],
        setup=profile.setup,
        python=(*profile.container, profile.python or sys.executable),
        warning_seconds=profile.warning_seconds,
        requeue_on_failure=profile.requeue_on_failure,
    )


def _check_nobody_works_there(missing: Stages) -> None:
    """`launch run` on this machine, say; a job of ours would have been found in the queue."""
    for stage in missing.values():
        holder = lock_holder(stage.directory)
        if holder is not None:
            raise DirectoryBusy(busy_message(stage.directory, holder))


def _queue(chain: _Chain, scripts: dict[str, str], jobs: list[JobRecord], request: SubmitRequest) -> list[JobRecord]:
    """Submit every script behind the jobs it waits for; each is on record before the next one is submitted."""
    missing = chain.missing()
    paths = {name: write_script(chain.run, missing[name], text) for name, text in scripts.items()}
    for path in paths.values():
        # All of them before any of them: half a chain helps nobody.
        scheduler.check(path)
    ids = {name: job.job for name, job in chain.alive.items()}
    for name, path in paths.items():
        after = [ids[before] for before in missing[name].inputs if before in ids]
        ids[name] = scheduler.submit(path, after)
        jobs = [
            *jobs,
            JobRecord(name, missing[name].key, ids[name], str(request.profile), round(time.time(), 3), tuple(after)),
        ]
        write_jobs(chain.run, jobs)
    return jobs


def _print_scripts(chain: _Chain, scripts: dict[str, str]) -> None:
    for name, text in scripts.items():
        after = [f"<job of {before}>" for before in chain.placed[name].inputs if before in scripts]
        options = " ".join(scheduler.submit_options(after))
        say(f"# {'=' * 8} {name}: sbatch {options}\n{text}")
    if not scripts:
        say("nothing to submit: every stage is done")


def _print_jobs(chain: _Chain, jobs: list[JobRecord], profile: Profile) -> None:
    rows = table("stage", "job", "state", "nodes", "GPUs", "time limit", "waits for")
    stage_of = {job.job: job.stage for job in jobs if not chain.placed[job.stage].is_done}
    for name, stage in chain.chosen.items():
        record = latest_job(jobs, name, stage.key)
        if stage.is_done:
            rows.add_row(name, "", "done", "", "", "", "")
            continue
        assert record is not None, f"{name} is neither done nor queued"
        shape = profile.shapes()[name]
        is_new = name not in chain.alive
        state = "submitted" if is_new else f"already {chain.alive[name].state.lower()}"
        limit = _limit(shape) if is_new else chain.alive[name].limit
        waits_for = ", ".join(f"{stage_of[job]} ({job})" for job in record.waits_for if job in stage_of)
        size = (str(shape.nodes), str(shape.nodes * shape.gpus_per_node)) if is_new else ("", "")
        rows.add_row(name, record.job, state, *size, limit, waits_for)
    show(rows)
    say("")


def _limit(shape: Shape) -> str:
    return clock_time(60 * shape.minutes)


def _print_advice(run: Path, has_submitted: bool) -> None:
    shown = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    if not has_submitted:
        say("nothing new to submit")
    say(f"how far it is: {command_line('status', shown)}")
    say(f"what a job prints: {command_line('logs', shown, 'STAGE', '-f')}")
    say(f"end it: {command_line('cancel', shown)}")
    say(f"scripts and logs: {shlex.quote(str(shown / 'jobs'))}")
