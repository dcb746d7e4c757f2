"""A chain whose training is interrupted in every way ends as if nothing had happened."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import pytest

from pipeline.runs.manifest import read_manifest
from tests.cluster.preempted import Chronicle


@pytest.fixture(scope="module")
def chronicle(preempted: concurrent.futures.Future[Chronicle]) -> Chronicle:
    return preempted.result()


def test_the_weights_are_those_of_the_uninterrupted_run(chronicle: Chronicle, uninterrupted: Path) -> None:
    assert [interruption.kind for interruption in chronicle.interruptions] == ["signal", "requeue", "node"]
    (train,) = uninterrupted.glob("train-*")
    expected = read_manifest(train)
    assert expected is not None
    manifest = chronicle.run.manifest("train")
    assert manifest.metrics["world_size"] == 4
    assert manifest.outputs["weights.safetensors"].sha256 == expected.outputs["weights.safetensors"].sha256


def test_no_step_is_lost_after_a_warning_and_each_is_on_record_once(chronicle: Chronicle) -> None:
    for interruption in chronicle.interruptions:
        lost = interruption.last_step - interruption.saved_step
        assert (lost == 0) if interruption.kind != "node" else (0 <= lost < 4), interruption
    steps = chronicle.run.manifest("train").metrics["global_step"]
    assert chronicle.run.steps() == list(range(1, steps + 1))


def test_the_job_keeps_its_id_and_its_dependents_wait_over_all_its_lives(chronicle: Chronicle) -> None:
    assert chronicle.run.job("train").restarts == 3
    for interruption in chronicle.interruptions:
        assert (interruption.dependent.state, interruption.dependent.reason) == ("PENDING", "Dependency")
    for stage in ("evaluate", "fuse", "report"):
        assert chronicle.run.manifest(stage)


def test_submit_prints_the_chain_and_a_second_submit_adds_nothing(chronicle: Chronicle) -> None:
    assert chronicle.submitted.code == 0, chronicle.submitted.output
    for stage in ("prepare", "build", "train", "evaluate", "fuse", "report"):
        assert chronicle.run.job_id(stage) in chronicle.submitted.output
    assert chronicle.submitted_again.code == 0
    assert "nothing new to submit" in chronicle.submitted_again.output


def test_status_tells_of_each_phase(chronicle: Chronicle) -> None:
    assert "running" in chronicle.statuses["running"]
    assert "requeued" in chronicle.statuses["preempted"]
    assert "interrupted once; the last time: stopped on request (SIGUSR2)" in chronicle.statuses["preempted"]
    assert "done" in chronicle.statuses["done"]


def test_figures_for_the_readme(chronicle: Chronicle) -> None:
    for one in chronicle.interruptions:
        figures = {
            "to requeued": one.requeued - one.asked,
            "to the next life": one.restarted - one.requeued,
            "to its first step": one.first_step - one.restarted,
        }
        print(one.kind, *(f"{seconds:.1f} s {what}" for what, seconds in figures.items()), sep=", ")
        assert all(seconds >= 0 for seconds in figures.values())
    print(chronicle.submitted.output, *chronicle.statuses.values(), sep="\n")
