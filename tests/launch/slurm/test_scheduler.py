"""What SLURM 22.05 really printed, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.slurm import scheduler
from launch.slurm.scheduler import QueuedJob, parse_sacct, parse_squeue, submit_options
from pipeline.ground.errors import UserError

SQUEUE = """\
22|PENDING||0:00|30:00|Dependency
9|PENDING||0:00|30:00|BeginTime
21|RUNNING|n[1-2]|1:33|1-00:00:00|None
7|COMPLETING|n1|0:12|30:00|None
8|COMPLETED|n1|0:12|30:00|None
23|CANCELLED||0:00|30:00|Dependency
24|FAILED|n[1-2]|0:41|30:00|NonZeroExitCode
25|PENDING||0:00|30:00|(Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions)
"""
SACCT = """\
21|COMPLETED|n[1-2]|00:01:33|0:0
22|CANCELLED by 1000|None assigned|00:00:00|0:0
23|NODE_FAIL|n1|00:10:00|1:0
"""


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a test says what SLURM's commands answer."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_squeue_s_lines_are_read():
    jobs = parse_squeue(SQUEUE)
    assert jobs["21"] == QueuedJob("21", "RUNNING", "n[1-2]", "1:33", "1-00:00:00", "")
    assert jobs["25"].reason.startswith("(Nodes required for job are DOWN")
    assert [job for job, found in jobs.items() if found.is_alive] == ["22", "9", "21", "7", "25"]


def test_sacct_s_lines_are_read():
    jobs = parse_sacct(SACCT)
    assert jobs["22"].state == "CANCELLED"
    assert jobs["23"] == QueuedJob("23", "NODE_FAIL", "n1", "00:10:00", "", "exit code 1:0")
    assert not any(job.is_alive for job in jobs.values())


@pytest.mark.parametrize("printed", ["", "\n", "slurm_load_jobs error\n"])
def test_what_is_no_job_is_no_job(printed):
    assert parse_squeue(printed) == {}
    assert parse_sacct(printed) == {}


def test_a_job_waits_for_all_that_are_named_and_goes_when_one_has_failed():
    assert submit_options([]) == ["--parsable", "--kill-on-invalid-dep=yes"]
    assert submit_options(["7", "8"])[-1] == "--dependency=afterok:7:8"


def test_jobs_that_squeue_has_forgotten_are_looked_up_in_the_accounting(commands):
    script(commands, "squeue", "echo '21|RUNNING|n1|1:33|30:00|None'")
    script(commands, "sacct", "echo '20|COMPLETED|n1|00:01:33|0:0'")
    found = scheduler.look_up(["20", "21"])
    assert {job: found[job].state for job in found} == {"20": "COMPLETED", "21": "RUNNING"}


def test_without_accounting_only_what_squeue_knows_is_known(commands):
    script(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    script(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert scheduler.look_up(["20"]) == {}


def test_no_jobs_are_not_asked_for(commands):
    assert scheduler.look_up([]) == {}


def test_slurm_s_refusals_are_passed_on_in_its_own_words(commands, tmp_path):
    script(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(UserError, match=r"^sbatch: error: invalid partition specified: gpu"):
        scheduler.check(tmp_path / "train.sbatch")
    script(commands, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match="squeue: slurm_load_jobs error: Unable to contact slurm controller"):
        scheduler.look_up(["20"])


def test_a_machine_without_slurm_is_told_so(commands):
    with pytest.raises(UserError, match="squeue: no such command; SLURM's commands are needed here"):
        scheduler.look_up(["20"])


def test_sbatch_gets_nothing_of_the_place_of_submission(commands, tmp_path, monkeypatch):
    """Neither what SLURM or MPI set in another job's task, nor what torchrun sets. The cluster's choice remains."""
    left_over: tuple[str, ...] = (
        "SLURM_ARRAY_JOB_ID",
        "SLURM_MEM_PER_CPU",
        "SLURMD_NODENAME",
        "SBATCH_EXPORT",
        "SRUN_DEBUG",
        "PMI_RANK",
    )
    left_over += ("PMIX_RANK", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE")
    for name in (*left_over, "SLURM_CONF", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "7")
    script(commands, "sbatch", f"export -p >'{tmp_path}/asked'; echo 77")
    scheduler.submit(tmp_path / "train.sbatch", [])
    asked = (tmp_path / "asked").read_text()
    assert not [name for name in left_over if f"{name}=" in asked]
    assert "SLURM_CONF=" in asked
    assert "WANDB_API_KEY=" in asked


def test_the_job_id_is_read_without_the_cluster_s_name(commands, tmp_path):
    script(commands, "sbatch", 'echo "$@" >asked; echo "77;cluster"'.replace("asked", str(tmp_path / "asked")))
    assert scheduler.submit(tmp_path / "train.sbatch", ["7", "8"]) == "77"
    asked = (tmp_path / "asked").read_text()
    assert asked == f"--parsable --kill-on-invalid-dep=yes --dependency=afterok:7:8 {tmp_path}/train.sbatch\n"
