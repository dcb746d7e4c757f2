from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.lock import exclusive
from pipeline.tracking import wandb_mirror as mirror_module
from pipeline.tracking.events import EventLog
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import TABLES, WandbMirror
from pipeline.tracking.wandb_mode import Mode
from pipeline.tracking.wandb_run import metrics_of, results_of
from pipeline.tracking.wandb_state import STATE, offline_files
from tests.conftest import REPOSITORY
from tests.tracking.stages import SETTINGS, evaluate, live, seal, tracked, train, train_fields
from tests.tracking.wandb_file import (
    metric_definitions,
    read_artifacts,
    read_exit_code,
    read_history,
    read_run,
    read_summary,
)
from tests.tracking.wandb_server import Server, serving

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own key, settings and server are none of the tests' business; nor is how slow it is today."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 120.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def fragments(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def logged_steps(run: Path) -> list[int]:
    return [row["global_step"] for path in fragments(run) for row in read_history(path) if "train/loss" in row]


def state_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / STATE).read_text()))


def test_a_run_has_its_name_config_and_metrics(run: Path) -> None:
    attempt = live(tracked(run, group="ablations"), range(1, 4), exit_code=75)
    assert attempt.warnings == []
    (path,) = fragments(run)
    described = read_run(path)
    assert (described.run_group, described.job_type, described.display_name) == ("ablations", "", "small")
    assert (described.run_id, described.project) == (state_of(run)["id"], "tests")
    config = {item.key: json.loads(item.value_json) for item in described.config.update}
    assert config["optim"] == {"lr": 0.1}
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


def run_of_all_stages(run: Path, mode: Mode) -> list[str]:
    """prepare, two attempts of train, freeze_bn and evaluate, one after the other. Returns the warnings."""
    warnings: list[str] = []
    done: dict[str, Path] = {}

    def attempt(part: str, work: Callable[[Tracked], None], metrics: dict[str, Any] | None) -> None:
        stage = tracked(run, part, trained_steps=5, inputs=dict(done))
        mirror = WandbMirror(SETTINGS, stage, mode, warnings.append)
        work(stage)
        if metrics is not None:
            seal(stage, metrics)
            done[part] = stage.directory
        mirror.close(75 if metrics is None else 0)

    attempt("prepare-val", lambda stage: None, {"images": 9})
    attempt("train", lambda stage: train(stage, range(1, 3)), None)
    attempt("train", lambda stage: train(stage, range(3, 4)), {"global_step": 3})
    attempt("freeze_bn", lambda stage: train(stage, range(4, 6)), {"global_step": 5})
    attempt("evaluate", lambda stage: evaluate(stage, "10crop"), {"10crop": {"top1_error_percent": 11.1}})
    return warnings


def test_all_stages_of_a_run_directory_are_one_run_which_the_command_that_is_told_uploads(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_of_all_stages(run, "offline") == []
    pieces = fragments(run)
    assert len(pieces) == 4, "prepare has none of its own"
    described = [read_run(path) for path in pieces]
    assert {piece.run_id for piece in described} == {state_of(run)["id"]}
    assert {piece.display_name for piece in described} == {"small"}
    assert logged_steps(run) == [1, 2, 3, 4, 5], "the freeze goes on with the same curves"
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert len(offline_files(run)) == 4
        command: list[str | Path] = [sys.executable, "-m", "wandb", "sync", *run.glob("wandb/offline-run-*")]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert offline_files(run) == [], "the client marks what it has uploaded"
    check_uploaded(server, state_of(run)["id"])


def test_all_stages_of_a_run_directory_are_one_run_at_a_server(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert run_of_all_stages(run, "online") == []
    check_uploaded(server, state_of(run)["id"])
    assert state_of(run)["url"] == f"{server.address}/entity/tests/runs/{state_of(run)['id']}"


def check_uploaded(server: Server, run_id: str) -> None:
    """Everything is in one run, each step once."""
    ((name, uploaded),) = server.runs.items()
    assert (name, uploaded["exit_code"]) == (run_id, 0)
    history, summary = uploaded["history"], uploaded["summary"]
    assert [row["global_step"] for row in history if "train/loss" in row] == [1, 2, 3, 4, 5]
    assert [row["global_step"] for row in history if "val/loss" in row] == [2, 3, 5]
    assert [row["global_step"] for row in history if "eval/10crop/images" in row] == [5]
    assert (summary["prepare/val/images"], summary["train/global_step"], summary["train/loss"]) == (9, 3, 0.4)
    assert (summary["val/top1_error_percent"], summary["eval/10crop/top1_error_percent"]) == (4.0, 11.1)


def test_what_w_and_b_lacks_of_the_stages_before_comes_with_the_next_one(run: Path) -> None:
    """As for a member of a sweep whose training another member has done in the store that they share."""
    before, warnings = tracked(run), []
    train(before, range(1, 4))
    seal(before, {"global_step": 3})
    stage = tracked(run, "evaluate", inputs={"train": before.directory}, trained_steps=3)
    for _ in range(2):
        mirror = WandbMirror(SETTINGS, stage, "offline", warnings.append)
        evaluate(stage, "10crop")
        mirror.close(1)
    (path,) = fragments(run)
    assert (warnings, logged_steps(run)) == ([], [1, 2, 3])
    assert read_summary(path)["train/global_step"] == 3


def test_a_stage_that_fails_before_its_first_event_leaves_nothing(run: Path) -> None:
    warnings: list[str] = []
    WandbMirror(SETTINGS, tracked(run, "prepare-train"), "offline", warnings.append).close(2)
    assert warnings == []
    assert sorted(path.name for path in run.iterdir()) == ["prepare-train-0123456789"]


def test_a_part_of_prepare_that_is_done_leaves_nothing_before_another_stage_reads_it(run: Path) -> None:
    """Or a `prepare` whose other part fails would leave a run with the number of its images to upload."""
    warnings: list[str] = []
    part = tracked(run, "prepare-train")
    mirror = WandbMirror(SETTINGS, part, "offline", warnings.append)
    seal(part, {"images": 9})
    mirror.close(0)
    assert warnings == []
    assert sorted(path.name for path in run.iterdir()) == ["prepare-train-0123456789"]
    live(tracked(run, inputs={"prepare-train": part.directory}), range(1, 2))
    assert read_summary(fragments(run)[0])["prepare/train/images"] == 9


def test_the_id_is_kept_and_replayed_steps_are_not_sent_again(run: Path) -> None:
    stage, warnings = tracked(run), []
    first = WandbMirror(SETTINGS, stage, "offline", warnings.append)
    train(stage, range(1, 4))
    log = EventLog(stage.directory)
    position = log.position()
    for step in (4, 5):
        log.write("train", **train_fields(step))
    log.close()
    first.close(75)
    second = WandbMirror(SETTINGS, stage, "offline", warnings.append)
    time.sleep(1.5)  # it reads what the stage is about to cut off
    log = EventLog(stage.directory)
    log.rewind(position)
    for step in range(4, 8):
        log.write("train", **train_fields(step))
    log.close()
    second.close(0)
    assert warnings == []
    assert {read_run(path).run_id for path in fragments(run)} == {state_of(run)["id"]}
    assert logged_steps(run) == [1, 2, 3, 4, 5, 6, 7]


def test_what_was_logged_while_the_mirror_was_away_is_caught_up(run: Path) -> None:
    train(tracked(run), range(1, 4))
    live(tracked(run), range(4, 6))
    assert logged_steps(run) == [1, 2, 3, 4, 5]


def test_the_next_stage_waits_for_the_last_words_of_the_one_before(run: Path) -> None:
    (run / "wandb").mkdir()
    with exclusive(run / "wandb"):
        stage, warnings = tracked(run), []
        mirror = WandbMirror(SETTINGS, stage, "offline", warnings.append)
        train(stage, range(1, 3))
        closing = threading.Thread(target=mirror.close, args=(0,))
        closing.start()
        time.sleep(2)
        assert fragments(run) == []
    closing.join()
    assert (warnings, logged_steps(run)) == ([], [1, 2])


def test_a_run_at_which_another_stage_is_still_at_work_is_left_to_the_next(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 8.0)
    (run / "wandb").mkdir()
    with exclusive(run / "wandb"):
        attempt = live(tracked(run), range(1, 3))
    assert attempt.warnings == ["another stage of the run is at Weights & Biases; this one's copy comes with the next"]
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 120.0)
    stage = tracked(run, "evaluate", inputs={"train": attempt.tracked.directory})
    mirror = WandbMirror(SETTINGS, stage, "offline", attempt.warnings.append)
    mirror.close(0)
    assert logged_steps(run) == [1, 2]


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_the_run_of_a_sweeps_agent_is_taken_over_by_a_run_directory_that_has_none(
    run: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        live(tracked(run), range(1, 3), exit_code=75)
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    live(tracked(run), range(3, 5))
    described = read_run(fragments(run)[-1])
    assert described.run_id == state_of(run)["id"]
    assert (described.run_id == "agents", described.sweep_id) == ((False, "") if known else (True, "sweep"))


KILLED = """
import sys
from pathlib import Path
from tests.tracking.stages import SETTINGS, tracked, train
from pipeline.tracking.wandb_mirror import WandbMirror
stage = tracked(Path(sys.argv[1]))
mirror = WandbMirror(SETTINGS, stage, "offline", print)
train(stage, range(1, 51))
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
    raise AssertionError(f"process {pid} still runs")


def test_a_kill_of_the_stage_loses_nothing(run: Path) -> None:
    process, mirror_pid = start_killed_attempt(run)
    process.kill()
    process.wait()
    wait_until_gone(mirror_pid)
    (path,) = fragments(run)
    assert read_exit_code(path) == 1, "the run has a proper end"
    assert logged_steps(run) == list(range(1, 51))
    live(tracked(run), range(41, 61))
    assert logged_steps(run) == list(range(1, 61))


def test_a_kill_of_everything_leaves_no_torn_file_and_the_next_attempt_makes_it_good(run: Path) -> None:
    process, mirror_pid = start_killed_attempt(run)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((run / STATE).exists() and state_of(run)["open_fragment"]):
        threading.Event().wait(0.02)
    os.killpg(mirror_pid, signal.SIGKILL)
    process.kill()
    process.wait()
    wait_until_gone(mirror_pid)
    torn = state_of(run)["open_fragment"]
    assert torn is not None
    live(tracked(run), range(41, 61))
    assert not (run / torn).exists()
    assert logged_steps(run) == list(range(1, 61))


def test_results_tables_evaluations_and_scores_are_handed_over(run: Path) -> None:
    stage, warnings = tracked(run, "evaluate", trained_steps=225, name="größe 1"), []
    mirror = WandbMirror(SETTINGS, stage, "offline", warnings.append)
    evaluate(stage, "10crop")
    files = {name: f"content of {name}" for name in ("scores-10crop.npy", "scores-10crop.seal.json", "results.json")}
    files[TABLES] = json.dumps({"results": {"columns": ["plan", "top1"], "rows": [["a", 1.5]]}})
    seal(stage, {"10crop": {"top1_error_percent": 11.1, "errors": 1}}, files)
    mirror.close(0)
    assert warnings == []
    (path,) = fragments(run)
    rows = read_history(path)
    assert rows[0]["global_step"] == 225
    assert rows[0]["eval/10crop/top1_error_percent"] == 11.1
    assert read_summary(path)["eval/10crop/errors"] == 1
    (table,) = path.parent.glob("files/media/table/*.json")
    assert json.loads(table.read_text()) == {"columns": ["plan", "top1"], "data": [["a", 1.5]]}
    (artifact,) = (found for found in read_artifacts(path) if found.type == "scores")
    assert artifact.name == "gr-e-1-evaluate-scores"
    assert {entry.path: entry.local_path for entry in artifact.manifest.contents} == {
        name: str(stage.directory / name) for name in ("scores-10crop.npy", "scores-10crop.seal.json")
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


@pytest.mark.parametrize(("kind", "when"), [("silent", "at the end"), ("refusing", "at the first event")])
def test_a_server_that_cannot_be_reached_costs_one_warning_and_a_bounded_wait(
    run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: str, when: str
) -> None:
    address = request.getfixturevalue("silent_server") if kind == "silent" else free_address()
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    stage, warnings = tracked(run), []
    mirror = WandbMirror(SETTINGS, stage, "online", warnings.append)
    if when == "at the first event":
        train(stage, range(1, 4))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not warnings:
            threading.Event().wait(0.05)
    else:
        time.sleep(1)
        train(stage, range(1, 4))
    seal(stage, {"global_step": 3})
    mirror.close(0)
    (warning,) = warnings
    assert "cannot be reached" in warning
    assert "logged offline" in warning
    assert logged_steps(run) == [1, 2, 3]
    assert read_summary(fragments(run)[0])["train/global_step"] == 3
    assert state_of(run)["open_fragment"] is None
    assert read_exit_code(fragments(run)[0]) == 0


def test_a_mirror_that_hangs_is_left_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "CLOSE_SECONDS", 0.2)
    started = []

    def start_hanging(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(
            subprocess.Popen(command, text=True, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        return started[-1]

    monkeypatch.setattr(mirror_module, "_start_process", start_hanging)
    attempt = live(tracked(run), range(1, 2000))
    (warning,) = attempt.warnings
    assert "did not finish" in warning
    assert started[0].poll() == -signal.SIGKILL


def test_without_the_client_there_is_one_warning(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "wandb.py").write_text("raise ImportError('no such luck')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    attempt = live(tracked(run), range(1, 4))
    (warning,) = attempt.warnings
    assert "Weights & Biases gets no copy of this stage (ImportError: no such luck)" in warning


def test_a_client_that_fails_costs_one_warning(run: Path) -> None:
    (run / "wandb").write_text("a file where the client wants its folder")
    attempt = live(tracked(run), range(1, 4))
    (warning,) = attempt.warnings
    assert "gets no copy of this stage" in warning


def test_metrics_are_numbers_with_their_step() -> None:
    event = {"kind": "validation", "time": 1.0, "global_step": 7, "epoch": 1.0, "images": 9, "note": "words"}
    assert metrics_of(event, 0) == {"global_step": 7, "val/epoch": 1.0, "val/images": 9}


def test_results_are_items_of_the_summary_below_their_stage() -> None:
    assert results_of("prepare-val", {"images": 9, "sizes": {"min": 3}}) == {
        "prepare/val/images": 9,
        "prepare/val/sizes/min": 3,
    }
    assert results_of("evaluate", {"10crop": {"images": 9}, "seconds": 2}) == {
        "eval/10crop/images": 9,
        "eval/seconds": 2,
    }
