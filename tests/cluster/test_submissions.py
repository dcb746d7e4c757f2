"""Where a job is submitted from, and what a site lets into it, make no difference to it."""

from __future__ import annotations

import re

from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR
from tests.cluster.conftest import NewRun
from tests.cluster.runs import ClusterRun
from tests.cluster.submissions import Checked, Nested

STARTED = "rank 0 of 1, local rank 0 on"


def test_a_job_submitted_by_a_task_of_another_one_is_itself_and_comes_back_alone(nested: Nested) -> None:
    log, job = nested.run.log("train"), nested.run.job_id("train")
    assert f"train: job {job} on" in log, nested.printed
    assert STARTED in log
    assert nested.run.job("train").restarts == 1
    assert (nested.outer.state, nested.outer.restarts) == ("RUNNING", 0)


def test_a_job_starts_its_stage_where_no_environment_is_let_into_jobs(without_environment: str) -> None:
    assert STARTED in without_environment


def test_a_setup_line_that_fails_ends_the_job_with_its_message(failing_setup: ClusterRun) -> None:
    log = failing_setup.log("train")
    assert "module: command not found" in log
    assert "this setup line of the profile ended with code 127: module load cuda/99" in log
    assert f"{failing_setup.log_path('train')} says why" in failing_setup.status()


def test_a_partition_that_slurm_does_not_know_is_answered_with_its_line_in_the_profile(new_run: NewRun) -> None:
    run = new_run(partition="nowhere")
    for answer in (run.submit(), run.launch("check", "--profile", run.profile, "--run", run.directory)):
        assert answer.code == EXIT_USER_ERROR
        assert f"{run.profile}:1: partition: SLURM refuses the job of " in answer.output
        assert '(given "nowhere"): sbatch: error: ' in answer.output
        assert "invalid partition" in answer.output


def test_a_check_of_a_profile_tells_what_its_nodes_offer_training(checked: Checked) -> None:
    answer = checked.good
    assert answer.code == EXIT_DONE, answer.output
    assert re.search(r"^job \d+: 2 nodes x 2 tasks, 2 minutes at most", answer.output, re.MULTILINE)
    for subject, found in {
        "processes": r"4 on 2 nodes, met after \S+ s; network interface lo +ok",
        "environment": r"Python 3\.\S+, PyTorch \S+; \d+ cores a process +ok",
        "GPUs": r"4 of 4 processes see none +-",
        "NCCL all-reduce": r"no GPUs +-",
        "gloo all-reduce": r"\S+ GB/s; SENet-154's gradients in \S+ s +(ok|slow)",
        "locks between nodes": r"a lock in \S+ holds for all +ok",
        "opening a file": r"\S+ ms, at worst \S+ ms +(ok|slow)",
        "writing a file": r"\S+ MB/s to disk +(ok|slow)",
        "Weights & Biases": r"no answer from http://127.0.0.1:9 .* +offline",
    }.items():
        assert re.search(rf"^{subject} +{found}$", answer.output, re.MULTILINE), answer.output


def test_a_check_whose_job_fails_shows_the_end_of_its_log(checked: Checked) -> None:
    assert checked.failing.code == EXIT_FAILED
    assert "the job ended as FAILED before everything was measured" in checked.failing.output
    assert checked.failing.output.endswith("this setup line of the profile ended with code 127: module load cuda/99\n")
