from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PARENT = """
import signal, subprocess, sys
from pipeline.ground.interpreter import module_environment
if {is_nohup}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {child!r}], env=module_environment())
child.wait()
"""
CHILD = """
import time
from pipeline.ground.stop import StopFlag, stop_with_parent
{early}
stop_with_parent()
stop = StopFlag()
stop.install()
{work}
"""
WAITS = 'print("ready", flush=True)\ntime.sleep(600)'
SAVES = """
with stop.hangups():
    print("ready", flush=True)
    while not stop.is_set:
        time.sleep(0.01)
print("saved on", stop.reason)
"""
EARLY = """
import os
print("ready", flush=True)
while os.getppid() == int(os.environ["SENET154_LAUNCHER"]):
    time.sleep(0.01)
"""
"""The parent is killed before the child has asked to be told."""


@pytest.mark.parametrize("is_nohup", [False, True])
@pytest.mark.parametrize(
    ("early", "work", "rest"),
    [
        ("", WAITS, ""),
        ("", SAVES, "saved on SIGHUP\n"),
        (EARLY, WAITS, ""),
    ],
    ids=["waiting", "saving", "early"],
)
def test_a_process_ends_with_the_one_that_started_it_and_saves_first(is_nohup, early, work, rest):
    code = PARENT.format(is_nohup=is_nohup, child=CHILD.format(early=early, work=work))
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGKILL)
        # The pipe ends with the child.
        assert parent.stdout.read() == rest
