from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.child import stage_command, stage_environment
from tests.conftest import REPOSITORY


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


STAGE = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: None if {hangs} else sys.exit(75))
worker = subprocess.Popen(["sleep", "600"], stdout=-3, stderr=-3, start_new_session=True)
print(worker.pid, flush=True)
while True:
    time.sleep(0.05)
"""
LAUNCHER = """
import os, sys
from launch.child import Supervisor
supervisor = Supervisor()
supervisor.install()
code = supervisor.run([sys.executable, "-c", {stage!r}], os.environ)
print(code, supervisor.stop_reason, supervisor.has_killed)
"""


@pytest.mark.parametrize(("hangs", "ending"), [(False, "75 SIGINT False"), (True, "-9 SIGINT True")])
def test_a_first_ctrl_c_lets_the_stage_save_and_a_second_kills_all_its_processes(hangs, ending):
    code = LAUNCHER.format(stage=STAGE.format(hangs=hangs))
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    assert launcher.stderr is not None
    worker = int(launcher.stdout.readline())
    try:
        launcher.send_signal(signal.SIGINT)
        assert launcher.stderr.readline() == "\n"
        assert launcher.stderr.readline().startswith("stopping on SIGINT: the running stage saves its work first")
        if hangs:
            assert Path(f"/proc/{worker}").exists()
            launcher.send_signal(signal.SIGINT)
        assert launcher.communicate(timeout=30)[0] == f"{ending}\n"
        if hangs:
            assert not Path(f"/proc/{worker}").exists() or "State:\tZ" in Path(f"/proc/{worker}/status").read_text()
    finally:
        if Path(f"/proc/{worker}").exists():
            os.kill(worker, signal.SIGKILL)
