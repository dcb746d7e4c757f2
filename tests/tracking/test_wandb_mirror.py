from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.manifest import Manifest, describe_outputs, write_manifest
from pipeline.tracking import wandb as mirror_module
from pipeline.tracking.events import EventLog
from pipeline.tracking.wandb_mirror import TABLES, WandbMirror
from pipeline.tracking.wandb_process import metrics_of
from pipeline.tracking.wandb_state import STATE
from stages import STAGES
from tests.tracking.wandb_file import (
    metric_definitions,
    read_artifacts,
    read_exit_code,
    read_history,
    read_run,
    read_summary,
)

REPOSITORY = Path(__file__).parents[2]
KEY = "0123456789" * 4

CONFIG = Config.model_validate(
    {
        "name": "small",
        "data": {"dataset": "digits"},
        "model": {"name": "senet_nano", "num_classes": 10},
        "optim": {"lr": 0.1},
        "schedule": {},
        "train": {"epochs": 2, "global_batch": 64, "max_micro_batch": 64},
        "freeze_bn": {"last_epochs": 0},
        "tracking": {"project": "tests"},
    }
)


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own key, settings and server are none of the tests' business."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@dataclasses.dataclass
class Attempt:
    placed: PlacedStage
    warnings: list[str]


def place(run: Path, name: str = "train") -> PlacedStage:
    placed = place_stages(CONFIG, run, STAGES)[name]
    placed.directory.mkdir(exist_ok=True)
    return placed


def train_fields(step: int) -> dict[str, Any]:
    return {"global_step": step, "epoch": step / 20, "loss": 2 / step, "lr": 0.1, "images_per_second": 400.0}


def live(run: Path, steps: range, exit_code: int = 0, mode: str = "offline") -> Attempt:
    """One attempt of the train stage: some steps, a validation after the last."""
    placed, warnings = place(run), []
    mirror = WandbMirror(CONFIG, placed, run, mode, warnings.append)
    log = EventLog(placed.directory, [mirror])
    for step in steps:
        log.write("train", **train_fields(step))
    log.write("validation", global_step=steps[-1], epoch=1.0, loss=0.3, top1_error_percent=4.0, top5_error_percent=0.5)
    log.close()
    mirror.close(exit_code)
    return Attempt(placed, warnings)


def fragments(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def logged_steps(run: Path) -> list[int]:
    return [row["global_step"] for path in fragments(run) for row in read_history(path) if "train/loss" in row]


def state_of(placed: PlacedStage) -> dict[str, Any]:
    return dict(json.loads((placed.directory / STATE).read_text()))


def test_a_stage_is_a_run_with_its_group_job_type_config_and_metrics(run: Path) -> None:
    attempt = live(run, range(1, 4), exit_code=75)
    assert attempt.warnings == []
    (path,) = fragments(run)
    described = read_run(path)
    assert (described.run_group, described.job_type, described.display_name) == ("small", "train", "small/train")
    assert (described.run_id, described.project) == (state_of(attempt.placed)["id"], "tests")
    config = {item.key: json.loads(item.value_json) for item in described.config.update}
    assert config["optim"]["lr"] == 0.1
    assert config["git"].keys() == {"commit", "modified"}
    history = read_history(path)
    assert history[1] == {
        "global_step": 2,
        "train/epoch": 0.1,
        "train/loss": 1.0,
        "train/lr": 0.1,
        "train/images_per_second": 400.0,
    }
    assert history[-1]["val/top1_error_percent"] == 4.0
    assert all("global_step" in row for row in history)
    assert metric_definitions(path)["*"] == "global_step"
    assert read_exit_code(path) == 75


def test_the_id_is_kept_and_replayed_steps_are_not_sent_again(run: Path) -> None:
    first = live(run, range(1, 6), exit_code=75)
    # Stopped after step 5, going on from a checkpoint of step 3.
    second = live(run, range(4, 8))
    assert state_of(first.placed)["id"] == state_of(second.placed)["id"]
    assert {read_run(path).run_id for path in fragments(run)} == {state_of(second.placed)["id"]}
    assert logged_steps(run) == [1, 2, 3, 4, 5, 6, 7]


def test_what_was_logged_while_the_mirror_was_away_is_caught_up(run: Path) -> None:
    log = EventLog(place(run).directory)
    for step in (1, 2, 3):
        log.write("train", **train_fields(step))
    log.close()
    live(run, range(4, 6))
    assert logged_steps(run) == [1, 2, 3, 4, 5]


KILLED = """
import os, sys
from pathlib import Path
from tests.tracking.test_wandb_mirror import CONFIG, place, train_fields
from pipeline.tracking.events import EventLog
from pipeline.tracking.wandb_mirror import WandbMirror
run = Path(sys.argv[1])
mirror = WandbMirror(CONFIG, place(run), run, "offline", print)
log = EventLog(place(run).directory, [mirror])
for step in range(1, 51):
    log.write("train", **train_fields(step))
print(mirror._process.pid, flush=True)
sys.stdin.read()
"""


def start_killed_attempt(run: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"process {pid} attempts on")


def test_a_kill_of_the_stage_loses_nothing(run: Path) -> None:
    process, mirror_pid = start_killed_attempt(run)
    process.kill()
    process.wait()
    wait_until_gone(mirror_pid)
    (path,) = fragments(run)
    assert read_exit_code(path) == 1, "the run has a proper end"
    # What had not reached the pipe comes from the event file in the next attempt.
    first = logged_steps(run)
    assert first == list(range(1, len(first) + 1))
    live(run, range(41, 61))
    assert logged_steps(run) == list(range(1, 61))


def test_a_kill_of_everything_leaves_no_torn_file_and_the_next_attempt_makes_it_good(run: Path) -> None:
    process, mirror_pid = start_killed_attempt(run)
    state = place(run).directory / STATE
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (state.exists() and json.loads(state.read_text())["open_fragment"]):
        threading.Event().wait(0.02)
    os.killpg(mirror_pid, signal.SIGKILL)
    process.kill()
    process.wait()
    wait_until_gone(mirror_pid)
    torn = state_of(place(run))["open_fragment"]
    assert torn is not None
    live(run, range(41, 61))
    assert not (run / torn).exists()
    assert logged_steps(run) == list(range(1, 61))


def test_results_tables_evaluations_and_scores_are_handed_over(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 120.0)  # however slow the machine is today
    train, evaluate = place(run), place(run, "evaluate")
    write_manifest(train.directory, Manifest("train", train.key, {}, {}, {}, {}, {"global_step": 225}))
    warnings: list[str] = []
    mirror = WandbMirror(CONFIG, evaluate, run, "offline", warnings.append)
    log = EventLog(evaluate.directory, [mirror])
    log.write(
        "evaluation", plan="10crop", images=9, crops=10, top1_error_percent=11.1, top5_error_percent=0.0, seconds=1
    )
    log.close()
    (evaluate.directory / TABLES).write_text(
        json.dumps({"results": {"columns": ["plan", "top1"], "rows": [["a", 1.5]]}})
    )
    metrics = {"10crop": {"top1_error_percent": 11.1}}
    for name in ("scores-10crop.npy", "scores-10crop.json", "results.json"):
        (evaluate.directory / name).write_text(f"content of {name}")
    outputs = describe_outputs(evaluate.directory, ["scores-10crop.npy", "scores-10crop.json", "results.json"])
    write_manifest(evaluate.directory, Manifest("evaluate", evaluate.key, {}, outputs, {}, {}, metrics))
    mirror.close(0)
    assert warnings == []
    (path,) = fragments(run)
    rows = read_history(path)
    assert rows[0]["global_step"] == 225
    assert rows[0]["eval/10crop/top1_error_percent"] == 11.1
    assert read_summary(path)["10crop"]["top1_error_percent"] == 11.1
    (table,) = path.parent.glob("files/media/table/*.json")
    assert json.loads(table.read_text()) == {"columns": ["plan", "top1"], "data": [["a", 1.5]]}
    (artifact,) = (found for found in read_artifacts(path) if found.type == "scores")
    assert artifact.name == "small-evaluate-scores"
    assert {entry.path: entry.local_path for entry in artifact.manifest.contents} == {
        name: str(evaluate.directory / name) for name in ("scores-10crop.npy", "scores-10crop.json")
    }


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in taken:
            connection.close()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_a_server_that_cannot_be_reached_costs_one_warning_and_a_bounded_wait(
    run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: str
) -> None:
    address = request.getfixturevalue("silent_server") if kind == "silent" else free_address()
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    # The whole way through both processes, however slow the machine is today.
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 120.0)
    monkeypatch.setattr(mirror_module, "INIT_SECONDS", 3.0)
    attempt = live(run, range(1, 4), mode="online")
    (warning,) = attempt.warnings
    assert "cannot be reached" in warning
    assert "logged offline" in warning
    assert logged_steps(run) == [1, 2, 3]
    assert state_of(attempt.placed)["open_fragment"] is None


def test_a_mirror_that_hangs_is_left_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 0.2)
    started = []

    def start_hanging(mode: str, description: dict[str, Any]) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))
        return started[-1]

    monkeypatch.setattr(mirror_module, "_start_process", start_hanging)
    # More than a pipe holds, so that whoever waited for the other end to read would wait for ever.
    attempt = live(run, range(1, 2000))
    (warning,) = attempt.warnings
    assert "did not finish" in warning
    assert started[0].poll() == -signal.SIGKILL


def test_without_the_client_there_is_one_warning(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text("raise ImportError('no such luck')")
    monkeypatch.setattr(mirror_module, "_SOURCE", f"{broken}{os.pathsep}{REPOSITORY}")
    attempt = live(run, range(1, 4))
    (warning,) = attempt.warnings
    assert "Weights & Biases is not installed (no such luck)" in warning


def test_a_client_that_fails_costs_one_warning(run: Path) -> None:
    (run / "wandb").write_text("a file where the client wants its folder")
    attempt = live(run, range(1, 4))
    (warning,) = attempt.warnings
    assert "gets no copy of this stage" in warning


def test_metrics_are_numbers_with_their_step() -> None:
    event = {"kind": "validation", "time": 1.0, "global_step": 7, "epoch": 1.0, "images": 9, "note": "words"}
    assert metrics_of(event, 0) == {"global_step": 7, "val/epoch": 1.0, "val/images": 9}
