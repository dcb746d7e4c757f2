"""What stops a job, what brings it back, and what does not."""

from __future__ import annotations

import json
import re

from pipeline.ground.errors import EXIT_DONE
from pipeline.running.attempts import read_attempts, read_outcome
from tests.cluster import attempts
from tests.cluster.runs import ClusterRun
from tests.tracking.wandb_file import read_history, read_run


def every_step_once(run: ClusterRun) -> list[int]:
    return list(range(1, run.seal("train").about["metrics"]["global_step"] + 1))


def test_sigterm_alone_and_the_time_limit_are_survived_without_a_lost_step(stopped: attempts.Stopped) -> None:
    run = stopped.run
    assert run.steps() == every_step_once(run)
    assert run.job("train").restarts == 2
    assert run.log("train").count("going on after step") == 2


def test_a_second_job_on_a_stage_is_refused_and_the_first_one_unharmed(stopped: attempts.Stopped) -> None:
    assert "another process works here" in stopped.second_job
    outcome = read_outcome(stopped.run.stage("train").directory)
    assert outcome is not None
    assert outcome.exit_code == EXIT_DONE


def test_the_attempts_of_a_job_are_one_run_of_wandb_with_each_step_once(stopped: attempts.Stopped) -> None:
    """Synced in the order of their names, as the last stage says, the pieces have one id and no step twice."""
    pieces = sorted(stopped.run.directory.glob("wandb/offline-run-*/*.wandb"))
    assert len(pieces) > 1
    assert len({read_run(piece).run_id for piece in pieces}) == 1
    steps = [row["global_step"] for piece in pieces for row in read_history(piece) if "train/loss" in row]
    assert steps == every_step_once(stopped.run)


def test_a_full_disk_fails_with_what_to_do_and_costs_no_checkpoint(failed: attempts.Failed) -> None:
    assert "no space left to write it" in failed.full_disk
    assert failed.full_disk_job.restarts == 0, "room does not come of trying again"
    assert "going on after step 4" in failed.crashed


def test_requeue_on_failure_gives_a_crash_so_many_more_attempts_and_then_ends_the_run(failed: attempts.Failed) -> None:
    assert failed.crashed_job.restarts == 1
    assert "that was crash 2 of at most 2" in failed.crashed
    assert "killed by signal 9" in failed.status
    assert "failed" in failed.status
    assert {failed.run.job(stage).state for stage in failed.run.stages_behind("train")} == {"CANCELLED"}


def test_a_dead_job_s_lock_is_no_hindrance_and_another_world_size_goes_on(failed: attempts.Failed) -> None:
    assert failed.lock.startswith("pid ")
    assert "2 processes x 6 images x 2 accumulation steps" in failed.again.output
    assert "going on with world_size 1 -> 2: the images, their order and crops stay exactly the same" in failed.run.log(
        "train"
    )
    assert failed.run.steps() == every_step_once(failed.run)


def test_a_job_that_never_gets_further_ends_with_the_reason(without_progress: attempts.WithoutProgress) -> None:
    assert without_progress.endings == ["interrupted", "requeued", "requeued", "failed"]
    assert "started 3 times in a row without saving anything new" in without_progress.log
    assert "started 3 times in a row" in without_progress.status


def test_cancel_ends_all_jobs_and_a_later_submit_begins_again(without_progress: attempts.WithoutProgress) -> None:
    assert without_progress.cancelled.code == 0, without_progress.cancelled.output
    assert without_progress.cancelled_job.restarts == 0
    assert "train: job" in without_progress.log_of_cancelled.output
    assert len(set(without_progress.submitted)) == 3


def test_status_tells_of_a_job_that_is_to_come_back(tampered: attempts.Tampered) -> None:
    assert re.search(r"build +requeued +job \d+ comes back as soon as SLURM lets it \(.*[Hh]eld.*\)", tampered.held)
    assert "to go on" not in tampered.held


def test_a_config_edited_between_two_attempts_is_refused(tampered: attempts.Tampered) -> None:
    assert "has changed since this job was submitted" in tampered.edited


def test_a_run_directory_that_vanished_ends_its_job_and_can_be_submitted_again(tampered: attempts.Tampered) -> None:
    assert tampered.vanished.state == "FAILED"
    assert tampered.status.code == 2
    assert "config.yaml: must be there" in tampered.status.output
    assert tampered.again.code == 0, tampered.again.output


def test_a_sweep_of_four_does_what_is_equal_once_and_a_training_that_is_stopped_comes_back(
    swept: attempts.Swept,
) -> None:
    names = ["batch8-seed1", "batch16-seed1", "batch8-seed2", "batch16-seed2"]
    assert f"members: {', '.join(names)}" in swept.submitted.output
    ids = {stage: [member.job_id(stage) for member in swept.members] for stage in ("prepare", "train", "evaluate")}
    assert {stage: len(set(jobs)) for stage, jobs in ids.items()} == {"prepare": 1, "train": 2, "evaluate": 4}
    assert [member.job("train").restarts for member in swept.members] == [0, 0, 1, 1]
    assert swept.waiting == ["PENDING", "PENDING"]
    for member in swept.members:
        assert member.steps() == every_step_once(member)
        assert all(stage.is_done for stage in member.stages().values())
    assert "4 of 4 runs done" in swept.status
    assert re.findall(r"^(\S+) +done +top-1 error", swept.status, re.MULTILINE) == names
    weights = [member.seal("train").files["weights.safetensors"].sha256 for member in swept.members]
    assert weights[0] == weights[1] != weights[2]


def test_evaluation_alone_scores_a_weight_file_with_two_processes(evaluated: ClusterRun) -> None:
    results = json.loads((evaluated.stage("evaluate").directory / "results.json").read_text())
    assert results["weights"]["path"].endswith("weights.safetensors")
    assert results["images"] == 20
    assert read_attempts(evaluated.stage("evaluate").directory)[-1].world_size == 2
