"""What `submit` is about to queue for one run: checked against the profile, the run directory and SLURM's queue."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.command import command_line
from launch.inputs import check_initial_checkpoint
from launch.job_graph import Stages, choose_stages
from launch.run_directory import default_run, set_up
from launch.slurm import scheduler
from launch.slurm.jobs import JobRecord, log_path, read_jobs
from launch.slurm.profile import Profile, load_profile
from launch.slurm.profile_check import check_fit, training_processes
from launch.slurm.scheduler import QueuedJob
from launch.slurm.script import JobScript
from pipeline.config.reader import load_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import DirectoryBusy, busy_message, lock_holder
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
class Submission:
    """One run's stages, and what SLURM has of them."""

    request: SubmitRequest
    config: Config
    """With the processes that the profile gives: the run keeps it so, and `status` reckons with them."""
    profile: Profile
    run: Path
    """Absolute."""
    placed: Stages
    chosen: Stages
    jobs: Sequence[JobRecord]
    """All that the run has had so far."""
    alive: Mapping[str, QueuedJob]
    """Jobs by stage that are queued or running for exactly these stages."""
    notes: Sequence[str]
    """How each training stage's batch is made up."""

    @property
    def missing(self) -> dict[str, PlacedStage]:
        """The stages that need a job."""
        return {name: stage for name, stage in self.chosen.items() if not stage.is_done and name not in self.alive}

    def script(self, name: str) -> JobScript:
        """What the job of a stage is made from."""
        stage, profile = self.placed[name], self.profile
        return JobScript(
            stage=name,
            key=stage.key,
            run=self.run,
            log=log_path(self.run, name, stage.key),
            directory=Path.cwd(),
            shape=profile.shapes()[name],
            setup=profile.setup,
            python=(*profile.container, profile.python or sys.executable),
            warning_seconds=profile.warning_seconds,
            requeue_on_failure=profile.requeue_on_failure,
        )

    def set_up(self) -> None:
        """Write the run's config and provenance. UserError where somebody is at work there, as `launch run` is."""
        for stage in self.missing.values():
            holder = lock_holder(stage.directory)
            if holder is not None:
                raise DirectoryBusy(busy_message(stage.directory, holder))
        set_up(self.run, self.config, self.missing.values(), self.request.accept_changes)

    def check_still_so(self) -> None:
        """UserError where another `submit` was faster; for the holder of the run's lock."""
        if read_jobs(self.run) != list(self.jobs):
            raise UserError(f"{self.run}: another `submit` or `cancel` was at work at the same moment; try again")


def prepare(request: SubmitRequest) -> Submission:
    """Read and check everything, and ask SLURM what it has; nothing is written, and a dry run asks nobody."""
    config = load_config(request.config, request.overrides)
    check_initial_checkpoint(config)
    profile = load_profile(request.profile)
    run = (request.run or default_run(config)).absolute()
    jobs = read_jobs(run)
    placed = place_stages(config, run, STAGES)
    alive = {} if request.dry_run else _alive(run, placed, jobs)
    coming = placed if request.dry_run else alive
    chosen = choose_stages(placed, request.only, request.first, request.recipe(), "submit", coming)
    draft = Submission(request, config, profile, run, placed, chosen, jobs, alive, ())
    notes = check_fit(config, profile, request.profile, draft.missing, placed)
    resources = config.resources.model_copy(update={"processes": training_processes(config, profile, placed)})
    return dataclasses.replace(draft, config=config.model_copy(update={"resources": resources}), notes=notes)


def _alive(run: Path, placed: Stages, jobs: Sequence[JobRecord]) -> dict[str, QueuedJob]:
    """UserError where jobs are still there that these stages must not get in the way of."""
    open_stages = {(name, stage.key) for name, stage in placed.items() if not stage.is_done}
    latest = {(job.stage, job.key): job for job in jobs}
    known = scheduler.look_up([job.job for job in latest.values()])
    alive = [job for job in latest.values() if job.job in known and known[job.job].is_alive]
    ending = [job for job in alive if job.is_cancelled]
    if ending:
        raise UserError(f"{run}: cancelled jobs are still ending: {_named(ending)}; try again in a moment")
    others = [job for job in alive if (job.stage, job.key) not in open_stages and not _is_done(placed, job)]
    if others:
        raise UserError(
            f"{run}: jobs of another config of this run are queued or running: {_named(others)}; end them first: "
            f"{command_line('cancel', run)}"
        )
    return {job.stage: known[job.job] for job in alive if (job.stage, job.key) in open_stages}


def _is_done(placed: Stages, job: JobRecord) -> bool:
    """Whether the job's stage is done and the job only about to end."""
    return job.stage in placed and placed[job.stage].key == job.key and placed[job.stage].is_done


def _named(jobs: Sequence[JobRecord]) -> str:
    return ", ".join(f"{job.job} ({job.stage})" for job in jobs)
