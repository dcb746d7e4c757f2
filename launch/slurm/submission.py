"""The jobs to queue for one run, checked against the profile, the run directory and SLURM's queue."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from launch.inputs import check_initial_checkpoint
from launch.job_graph import Stages, choose_stages
from launch.recipe_options import recipe_words
from launch.refusal import refuse_false_claims, warnings
from launch.slurm import scheduler
from launch.slurm.jobs import JobRecord, log_path, read_jobs
from launch.slurm.profile import Profile, load_profile
from launch.slurm.profile_check import check_profile, training_world_size
from launch.slurm.scheduler import QueuedJob
from launch.slurm.script import JobScript
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line
from pipeline.running.named_weights import new_choices
from pipeline.running.stage import PlacedStage, place_stages
from stages import STAGES


@dataclasses.dataclass(frozen=True)
class SubmitRequest:
    """The command line of `submit`."""

    config: Path
    profile: Path
    overrides: tuple[str, ...] = ()
    other_configs: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()
    run: Path | None = None
    only: str | None = None
    first: str | None = None
    accept_changes: bool = False
    dry_run: Literal["table", "scripts"] | None = None

    def recipe(self) -> tuple[str, ...]:
        """Return the words of the command line, without those that choose stages."""
        recipes = recipe_words(self.config, self.other_configs, self.seeds)
        run = () if self.run is None else ("--run", str(self.run))
        return (*recipes, "--profile", str(self.profile), *self.overrides, *run)


@dataclasses.dataclass(frozen=True)
class Submission:
    """One run's stages, and SLURM's jobs for them."""

    request: SubmitRequest
    config: Config
    """The config with the profile's world size: the run keeps it, and `status` counts with it."""
    profile: Profile
    run: Path
    """Absolute."""
    placed: Stages
    chosen: Stages
    jobs: Sequence[JobRecord]
    """All jobs of the run so far."""
    alive: Mapping[str, QueuedJob]
    """Queued or running jobs of the stages under their keys, by stage."""
    notes: Sequence[str]
    """Descriptions of the training stages' batches, and what of the environment is ignored."""

    @property
    def missing(self) -> dict[str, PlacedStage]:
        """The stages that need a job."""
        return {name: stage for name, stage in self.chosen.items() if not stage.is_done and name not in self.alive}

    def script(self, name: str) -> JobScript:
        """Return the script of a stage's job."""
        stage, profile = self.placed[name], self.profile
        return JobScript(
            stage=name,
            key=stage.key,
            run=self.run,
            log=log_path(self.run, name, stage.key),
            directory=Path.cwd(),
            shape=profile.shapes()[name],
            setup=profile.setup,
            python=profile.python_words,
            warning_seconds=profile.warning_seconds,
            requeue_on_failure=profile.requeue_on_failure,
        )

    def check_still_so(self) -> None:
        """Check that the list of jobs is unchanged, under the run's lock. Raises UserError if another `submit` was
        faster."""
        if read_jobs(self.run) != list(self.jobs):
            raise UserError(f"{self.run}: another `submit` or `cancel` was at work at the same moment; try again")


def live_jobs(jobs: Iterable[Sequence[JobRecord]]) -> dict[JobRecord, QueuedJob]:
    """Ask SLURM once for the jobs of several runs. Returns those that are queued or running."""
    latest = [job for records in jobs for job in {(job.stage, job.key): job for job in records}.values()]
    known = scheduler.look_up(dict.fromkeys(job.job for job in latest))
    return {job: known[job.job] for job in latest if job.job in known and known[job.job].is_alive}


def prepare(
    request: SubmitRequest,
    config: Config,
    run: Path,
    jobs: Sequence[JobRecord],
    queued: Mapping[JobRecord, QueuedJob],
    coming: Collection[JobRecord],
) -> Submission:
    """Check everything of one run with these jobs; `queued` are the live ones of all members. A dry run knows none.

    `coming` are those that a chosen stage may wait for: the live ones; in a dry run, all that may be.

    Nothing is written; but if changes are accepted and no job is alive, the names of weights are resolved anew.
    """
    check_initial_checkpoint(config)
    profile = load_profile(request.profile)
    own = [job for job in jobs if job in queued]
    # Before the keys are computed: those of the jobs must be those of the config that is written.
    with new_choices(run, wanted=request.accept_changes and not request.dry_run and not own):
        placed = place_stages(config, run, STAGES)
        _check_own(run, placed, own)
        open_stages = {(name, stage.key) for name, stage in placed.items() if not stage.is_done}
        # One key is one job, whichever member it was queued for.
        alive = {job.stage: known for job, known in queued.items() if (job.stage, job.key) in open_stages}
        awaited = {job.stage for job in coming if (job.stage, job.key) in open_stages}
        chosen = choose_stages(placed, request.only, request.first, request.recipe(), "submit", awaited)
        refuse_false_claims(config, chosen)
        draft = Submission(request, config, profile, run, placed, chosen, jobs, alive, ())
        notes = check_profile(config, profile, request.profile, draft.missing, placed) + _ignored(os.environ)
    if request.dry_run and awaited:
        names = ", ".join(name for name in placed if name in awaited)
        notes.append(f"submitted before: {names}; a dry run does not ask SLURM whether these jobs are still queued")
    notes += warnings([(run.name, config, chosen)])
    resources = config.resources.model_copy(update={"processes": training_world_size(config, profile, placed)})
    return dataclasses.replace(draft, config=config.model_copy(update={"resources": resources}), notes=notes)


def _ignored(environment: Mapping[str, str]) -> list[str]:
    names = sorted(name for name in environment if name.startswith("SBATCH_"))
    return [f"not used: {', '.join(names)}; account, partition and the like are the profile's"] if names else []


def _check_own(run: Path, placed: Stages, alive: Sequence[JobRecord]) -> None:
    """Raise UserError if some live jobs of the run are cancelled ones or those of another config."""
    if ending := [job for job in alive if job.is_cancelled]:
        raise UserError(f"{run}: cancelled jobs are still ending: {_named(ending)}; try again in a moment")
    if others := [job for job in alive if job.stage not in placed or placed[job.stage].key != job.key]:
        raise UserError(
            f"{run}: jobs of another config of this run are queued or running: {_named(others)}; end them first: "
            f"{command_line('cancel', run)}"
        )


def _named(jobs: Sequence[JobRecord]) -> str:
    return ", ".join(f"{job.job} ({job.stage})" for job in jobs)
