from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launch.child import stage_command, stage_environment


def test_a_single_process_is_the_stage_itself():
    assert stage_command("build", Path("runs/a b"), 1) == [sys.executable, "-m", "stages", "build", "--run", "runs/a b"]


def test_several_processes_are_started_by_torchrun():
    command = stage_command("train", Path("runs/demo"), 8)
    assert command[1:] == ["-m", "pipeline.running.torchrun", "8", "stages", "train", "--run", "runs/demo"]


@pytest.mark.parametrize(("processes", "threads"), [(1, "6"), (2, "3"), (4, "1"), (8, "1")])
def test_processes_share_the_cores(monkeypatch, processes, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert stage_environment({}, processes)["OMP_NUM_THREADS"] == threads


def test_what_the_user_has_set_stands():
    environment = stage_environment({"OMP_NUM_THREADS": "3", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9", "A": "b"}, 2)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "9"
    assert environment["A"] == "b"


def test_a_single_process_is_one_also_within_a_slurm_job():
    inherited = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_TASKS": "4"}
    environment = stage_environment(inherited, 1)
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("0", "1")
    assert "RANK" not in stage_environment(inherited, 2)
