from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.tracking.terminal import PlainDisplay, TerminalDisplay, open_display

REPOSITORY = Path(__file__).parents[2]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(
    done: int, total: int = 225, unit: str = "steps", rate: float | None = None, text: str = ""
) -> dict[str, Any]:
    return {"kind": "progress", "time": 0.0, "done": done, "total": total, "unit": unit, "rate": rate, "text": text}


TRAIN = {
    "kind": "train",
    "time": 0.0,
    "global_step": 68,
    "epoch": 3.0,
    "loss": 0.9123,
    "lr": 0.08712,
    "images_per_second": 412.3,
}
VALIDATION = {"kind": "validation", "time": 0.0, "epoch": 3, "top1_error_percent": 4.1666, "top5_error_percent": 0.28}
WARNING = {"kind": "note", "time": 0.0, "level": "warning", "text": "a file is broken"}


def test_training_progress_has_epoch_step_loss_rate_and_time_left() -> None:
    stream, clock = io.StringIO(), FakeClock()
    display = PlainDisplay("train", stream, clock)
    display(progress(0))
    clock.now += 68
    display(TRAIN)
    display(progress(68, text="epoch 3.00"))
    assert stream.getvalue().splitlines()[-1] == (
        "train  epoch 3.00  step 68/225  loss 0.912  lr 0.0871  412 images/s  ETA 2 min 37 s"
    )


def test_plain_progress_is_first_last_and_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), FakeClock()
    display = PlainDisplay("train", stream, clock)
    for done in range(1, 226):
        display(progress(done))
        clock.now += 1
    display.close()
    shown = [int(re.search(r"step (\d+)/225", line)[1]) for line in stream.getvalue().splitlines()]
    assert shown[0] == 1
    assert shown[-1] == 225
    assert shown[:-1] == list(range(1, 225, 10))


def test_progress_that_was_held_back_is_printed_in_the_end() -> None:
    stream = io.StringIO()
    display = PlainDisplay("train", stream, FakeClock())
    display(progress(1))
    display(progress(2))
    assert "step 2/225" not in stream.getvalue()
    display.close()
    assert stream.getvalue().splitlines()[-1] == "train  step 2/225", "no time is left of an attempt that is over"


def test_other_events_are_never_held_back() -> None:
    stream = io.StringIO()
    display = PlainDisplay("train", stream, FakeClock())
    display(progress(1))
    display(VALIDATION)
    display(WARNING)
    assert stream.getvalue().splitlines()[1:] == [
        "validation  epoch 3.0  top-1 error 4.17 %  top-5 error 0.28 %",
        "warning  a file is broken",
    ]


def test_each_thing_that_is_counted_has_its_own_clock() -> None:
    stream, clock = io.StringIO(), FakeClock()
    display = PlainDisplay("evaluate", stream, clock)
    for plan in ("center224", "10crop"):
        clock.now += 1000
        display(progress(0, 100, "images", 50.0, plan))
        clock.now += 20
        display(progress(50, 100, "images", 50.0, plan))
    assert stream.getvalue().splitlines() == [
        "evaluate  center224  image 0/100  50.0 images/s",
        "evaluate  center224  image 50/100  50.0 images/s  ETA 20 s",
        "evaluate  10crop  image 0/100  50.0 images/s",
        "evaluate  10crop  image 50/100  50.0 images/s  ETA 20 s",
    ]


def test_time_left_counts_from_where_this_attempt_began() -> None:
    stream, clock = io.StringIO(), FakeClock()
    display = PlainDisplay("train", stream, clock)
    display(progress(200))
    clock.now += 10
    display(progress(205))
    assert stream.getvalue().splitlines()[-1].endswith("ETA 40 s")


def test_plain_lines_are_whole_and_without_control_characters() -> None:
    stream = io.StringIO()
    display = PlainDisplay("prepare", stream, FakeClock())
    display({"kind": "note", "time": 0.0, "level": "warning", "text": "bad\x1b[2Jname " + "x" * 500})
    assert stream.getvalue() == "warning  bad\\x1b[2Jname " + "x" * 500 + "\n"


def test_a_reader_that_goes_away_does_not_disturb_the_stage() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        os.close(read_end)
        display = PlainDisplay("train", stream, FakeClock())
        for done in range(1, 226):
            display(progress(done))
        display.close()
        # What the stream itself still holds would raise once more when it is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), write_end)


def test_the_bar_gives_way_on_a_narrow_terminal_but_rate_and_time_left_stay() -> None:
    stream, clock = io.StringIO(), FakeClock()
    display = TerminalDisplay("train", Console(file=stream, force_terminal=True, width=60), clock)
    display(progress(0))
    clock.now += 68
    display(TRAIN)
    display(progress(68))
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", stream.getvalue()).split("\r")[-1]
    assert "412 images/s  ETA 2 min 37 s" in last
    assert "━" in last
    display.close()


def test_a_pipe_or_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_display("train", io.StringIO()), PlainDisplay)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(open_display("train", terminal), PlainDisplay)
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(open_display("train", terminal), TerminalDisplay)
    os.close(leader)


SCRIPT = """
import sys
from pipeline.tracking.terminal import open_display
now = [0.0]
display = open_display("train", sys.stdout, lambda: now[0])
for step in range(1, 11):
    now[0] += 1
    display({"kind": "train", "global_step": step, "loss": 1.0, "lr": 0.1, "images_per_second": 412.3})
    text = f"epoch {step / 5:.2f}"
    display({"kind": "progress", "done": step, "total": 20, "unit": "steps", "rate": None, "text": text})
display({"kind": "note", "level": "warning", "text": "look here"})
display.close()
"""


def run_on_a_terminal(script: str) -> str:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=follower,
        stderr=follower,
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "24"},
    )
    os.close(follower)
    output = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the last writer has gone
            break
        output += chunk
        if not chunk:
            break
    os.close(leader)
    assert process.wait(60) == 0, output.decode()
    return output.decode()


def test_a_real_terminal_shows_a_bar_with_rate_and_time_left_and_lines_above_it() -> None:
    output = run_on_a_terminal(SCRIPT)
    assert re.search(r"━.*epoch 1\.60  step 8/20  loss 1\.000  lr 0\.1  412 images/s  ETA 12 s", output)
    assert "warning  look here" in output
    assert output.rstrip().endswith("step 10/20  loss 1.000  lr 0.1  412 images/s"), "the bar's last state stays"
    assert "\x1b[?25l" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor is given back"
