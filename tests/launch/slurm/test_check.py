"""What `launch check` makes of its job; tests/cluster runs a real one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from launch.slurm import scheduler
from launch.slurm.check import check_profile_on_cluster
from launch.slurm.scheduler import QueuedJob
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED
from pipeline.store.journal import append_record

PROFILE = "stages: {train: {nodes: 2, tasks_per_node: 2, minutes: 600}}\nwarning_seconds: 300\n"


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile on a cluster that calls every job 12."""
    path = tmp_path / "profile.yaml"
    path.write_text(PROFILE)
    monkeypatch.setattr(scheduler, "submit", lambda script, after: "12")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return path


def let_job_be(monkeypatch: pytest.MonkeyPatch, *states: str) -> None:
    """The job is in these states, one after another."""
    left = iter(states)
    monkeypatch.setattr(scheduler, "look_up", lambda jobs: {job: QueuedJob(job, next(left), "n[1-2]") for job in jobs})


@pytest.mark.parametrize(("verdict", "code"), [("ok", EXIT_DONE), ("slow", EXIT_DONE), ("missing", EXIT_FAILED)])
def test_findings_are_shown_and_only_what_is_missing_is_a_failure(verdict, code, profile, monkeypatch, capsys):
    let_job_be(monkeypatch, "PENDING", "RUNNING", "RUNNING", "COMPLETED")
    run = profile.parent / "check"
    run.mkdir()
    append_record(run / "findings-12.jsonl", {"subject": "GPUs", "found": "8 x H100", "verdict": verdict})
    assert check_profile_on_cluster(profile, run) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "job 12: 2 nodes x 2 tasks, 2 minutes at most once it runs; Ctrl-C cancels it",
        "pending n[1-2]",
        "running n[1-2]",
    ]
    assert lines[-1].split("  ") == ["GPUs", "8 x H100", verdict]
    script = (run / "jobs" / "check.sbatch").read_text()
    assert "#SBATCH --time=2\n" in script
    assert "--signal" not in script


def test_ctrl_c_cancels_the_job(profile, monkeypatch):
    cancelled: list[str] = []

    def interrupt(jobs: Iterable[str]) -> dict[str, QueuedJob]:
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduler, "look_up", interrupt)
    monkeypatch.setattr(scheduler, "cancel", cancelled.extend)
    with pytest.raises(KeyboardInterrupt):
        check_profile_on_cluster(profile, profile.parent / "check")
    assert cancelled == ["12"]


def test_a_job_that_slurm_no_longer_knows_is_not_taken_for_a_good_one(profile, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "look_up", lambda jobs: {})
    assert check_profile_on_cluster(profile, profile.parent / "check") == EXIT_FAILED
    assert "the job ended as unknown to SLURM before everything was measured" in capsys.readouterr().out
