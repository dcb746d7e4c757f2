"""Stories of where and under what settings of a site jobs are submitted. Their training never comes to anything."""

from __future__ import annotations

import dataclasses
import shlex
import sys

from tests.cluster.attempts import stop_deaf_stage
from tests.cluster.runs import PATIENCE, Answer, ClusterRun
from tests.cluster.slurm import Job, wait_until
from tests.conftest import REPOSITORY


@dataclasses.dataclass(frozen=True)
class Nested:
    """A run submitted by a task of another job, and asked to stop once."""

    run: ClusterRun
    outer: Job
    """The job that has submitted it, after that."""
    printed: str
    """What the outer job printed."""


def submit_from_a_task(run: ClusterRun) -> Nested:
    """A task of a job array with memory per core submits training, which gets a warning; then the site's default lets
    no environment into the same job."""
    folder, cluster = run.profile.parent, run.cluster
    submit = ["submit", run.recipe, "--profile", run.profile, "--run", run.directory, "--only", "train"]
    command = shlex.join([sys.executable, "-m", "launch", *map(str, submit)])
    # As a login shell may set the first one, and an interactive job the others.
    leftovers = "export SBATCH_EXPORT=NONE SLURM_CPU_BIND=cores SLURM_GPUS_PER_TASK=1 CUDA_VISIBLE_DEVICES=7"
    options = ["--array=3", "--requeue", "--mem-per-cpu=500", f"--output={folder}/outer.log", f"--chdir={REPOSITORY}"]
    outer = cluster.command(
        "sbatch",
        "--parsable",
        *options,
        f"--wrap=srun bash -c {shlex.quote(f'{leftovers}; {command}')}; sleep infinity",
    ).strip()
    name, log = f"{outer}_3", folder / "outer.log"
    wait_until(lambda: (run.directory / "jobs.json").exists(), PATIENCE, "the submission by a task")
    run.wait_for_attempt("train", 1)
    stop_deaf_stage(run, "train")
    run.wait_for_restart("train", 1)
    nested = Nested(run, cluster.job(name), log.read_text())
    cluster.command("scancel", "--full", name, run.job_id("train"))
    return nested


def submit_with_failing_setup(run: ClusterRun) -> ClusterRun:
    """A profile with a setup line that fails."""
    assert run.submit("--only", "train").code == 0
    run.wait_for_state("train", "FAILED")
    return run


@dataclasses.dataclass(frozen=True)
class Checked:
    """What `launch check` said of a profile, and of the same one with a setup line that fails."""

    good: Answer
    failing: Answer


def check(run: ClusterRun) -> Checked:
    """Two processes on each of two nodes, where W&B's server does not answer."""
    run.variables = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    words = ("check", "--profile", run.profile, "--run", run.directory)
    return Checked(run.launch(*words), run.with_profile(setup=["module load cuda/99"]).launch(*words))


def submit_without_environment(run: ClusterRun) -> str:
    """A cluster whose default is that nothing of the environment reaches a job: what the job prints then."""
    cluster = run.cluster
    assert run.submit("--only", "train").code == 0
    (script,) = run.directory.glob("jobs/train-*.sbatch")
    cluster.command("scancel", "--full", run.job_id("train"))
    job = cluster.command("sbatch", "--parsable", "--export=NONE", str(script)).strip()
    log = script.with_name(f"{script.stem}-{job}.log")

    def has_started_or_ended() -> bool:
        return cluster.job(job).state == "FAILED" or (log.exists() and "rank 0" in log.read_text())

    wait_until(has_started_or_ended, PATIENCE, "the job's start")
    cluster.command("scancel", "--full", job)
    return log.read_text()
