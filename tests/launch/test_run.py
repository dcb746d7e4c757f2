"""The launcher on real stages: real processes, real signals, the contract's exit codes."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.refusal import warnings
from pipeline.config.reader import load_config, write_run_config
from pipeline.ground.errors import EXIT_STOPPED
from pipeline.running.attempts import read_outcome
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import exclusive, lock_holder
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.images import write_image_folders
from tests.recipes import small_recipe

NO_GATES = "warning: report.activations: no gates are measured: "
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough for a signal to arrive in the middle of training, short enough to be finished afterwards."""
    folder = tmp_path_factory.mktemp("recipe")
    images = write_image_folders(folder / "images", num_classes=4, train_per_class=20, val_per_class=5)
    config = small_recipe(
        images,
        train={"epochs": 20, "max_micro_batch": 12, "validate_every_epochs": 18},
        tracking={"log_every_steps": 1},
        checkpoint={"every_epochs": 18, "every_steps": None},
    )
    write_run_config(folder, config)
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def prepared(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("prepared") / "run"
    for stage in ("prepare", "build"):
        done = launch("run", recipe, "--run", run, "--only", stage)
        assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    """A run of its own whose first two stages are done."""
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


def launch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def placed(recipe: Path, run: Path) -> dict[str, PlacedStage]:
    return place_stages(load_config(recipe), run, STAGES)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Look often until the condition holds; fails when the process ends before that, or after five minutes."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, f"ended too early: {process.communicate()}"
        time.sleep(0.02)


def trains(stage: PlacedStage) -> Callable[[], bool]:
    return lambda: any(True for _ in read_events(stage.directory, "train"))


def status(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["status", str(run)]) == 0
    return capsys.readouterr().out


def test_a_stopped_run_goes_on_with_the_command_it_prints_and_ends_with_its_results(recipe, run, capsys):
    stages = placed(recipe, run)
    process = start("run", recipe, "processes=2", "--run", run)
    wait_until(trains(stages["train"]), process)
    shown = status(run, capsys)
    assert "running" in shown
    assert "ETA" in shown
    process.send_signal(signal.SIGUSR2)
    out, err = process.communicate()
    assert process.returncode == EXIT_STOPPED, err
    assert "Traceback" not in err
    assert "ChildFailedError" not in err
    total, number = len(stages), list(stages).index("train") + 1
    assert f"[1/{total}] prepare: already done in" in out
    assert f"[{number}/{total}] train: train to the epoch where the batch norms freeze" in out
    shown = status(run, capsys)
    assert "stopped, resumable" in shown
    assert "checkpoint after step" in shown
    last = err.splitlines()[-1]
    assert last.startswith("to go on: ")

    done = subprocess.run(shlex.split(last.removeprefix("to go on: ")), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout
    assert f"[{total}/{total}] report: done in" in done.stdout
    table, report = done.stdout.splitlines()[-5:-2], done.stdout.splitlines()[-1]
    assert table[0].split() == ["crop", "plan", "crops", "top-1", "error"], "of four classes every top-5 error is 0"
    assert table[1].split()[:2] == ["center32", "1"]
    assert table[2].split()[:3] == ["fused,", "1", "member"]
    assert table[1].split()[-2:] == table[2].split()[-2:]
    assert Path(report.removeprefix("report, to open in a browser: ")).is_file()
    shown = status(run, capsys)
    assert shown.count(" done ") == total
    assert "in 2 attempts" in shown

    again = launch("run", recipe, "--run", run)
    assert again.returncode == 0
    assert again.stdout.startswith(f"nothing to do: {', '.join(stages)} are done in {run}\n")
    assert again.stdout.splitlines()[-1] == report


def test_ctrl_c_lets_the_stage_save_before_the_launcher_ends(recipe, run):
    train = placed(recipe, run)["train"]
    process = start("run", recipe, "--run", run, "--only", "train")
    wait_until(trains(train), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == EXIT_STOPPED, err
    assert "Traceback" not in err
    assert err.lstrip().startswith("stopping on SIGINT: the running stage saves its work first")
    assert err.splitlines()[-1].startswith("to go on: ")
    assert lock_holder(train.directory) is None
    assert list((train.directory / "checkpoints").glob("step-*"))


def test_a_second_ctrl_c_ends_the_run_with_1_and_says_that_nothing_was_saved(recipe, run, capsys):
    train = placed(recipe, run)["train"]
    process = start("run", recipe, "--run", run, "--only", "train")
    wait_until(trains(train), process)
    holder = lock_holder(train.directory)
    assert holder is not None
    # As one that hangs in a driver: it can neither save nor handle a signal.
    os.kill(int(holder.split()[1]), signal.SIGSTOP)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().endswith("Ctrl-C again ends it without saving\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    *_, ended, advice = err.splitlines()
    assert ended.endswith("ended at once by a second Ctrl-C: what was done since the last checkpoint is not saved")
    assert advice.startswith("to go on: ")
    assert "killed, resumable" in status(run, capsys)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stage_whose_directory_is_deleted_ends_with_2_and_one_sentence(recipe, run, processes):
    train = placed(recipe, run)["train"]
    process = start("run", recipe, f"processes={processes}", "--run", run, "--only", "train")
    wait_until(trains(train), process)
    shutil.rmtree(train.directory)
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert f"{train.directory}: this folder was removed while the stage ran" in err


def test_a_killed_launcher_takes_its_stage_with_it_while_it_starts(recipe, run):
    train = placed(recipe, run)["train"]
    process = start("run", recipe, "processes=2", "--run", run, "--only", "train")
    stage: list[Path] = []

    def is_starting() -> bool:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        stage[:] = [
            Path("/proc", child) for child in children if "torchrun" in Path("/proc", child, "cmdline").read_text()
        ]
        return bool(stage)

    wait_until(is_starting, process)
    process.kill()
    wait_until(lambda: not stage[0].exists())
    assert not train.directory.exists()


def test_a_killed_launcher_takes_its_stage_with_it_and_the_work_is_saved(recipe, run):
    train = placed(recipe, run)["train"]
    process = start("run", recipe, "processes=2", "--run", run, "--only", "train")
    wait_until(trains(train), process)
    process.kill()
    wait_until(lambda: lock_holder(train.directory) is None)
    outcome = read_outcome(train.directory)
    assert outcome is not None
    assert outcome.exit_code == EXIT_STOPPED
    assert list((train.directory / "checkpoints").glob("step-*"))


def test_a_killed_stage_ends_the_run_with_1_and_says_how_to_go_on(recipe, run, capsys):
    train = placed(recipe, run)["train"]
    process = start("run", recipe, "--run", run, "--only", "train")
    wait_until(trains(train), process)
    holder = lock_holder(train.directory)
    assert holder is not None
    subprocess.run(["kill", "-KILL", holder.split()[1]], check=True)
    _, err = process.communicate()
    assert process.returncode == 1
    *_, failed, advice = err.splitlines()
    assert failed.endswith("its process was killed by SIGKILL (out of memory?)")
    assert advice.startswith("when the cause is removed, go on with: ")
    assert "killed, resumable" in status(run, capsys)


def test_a_damaged_input_ends_a_stage_with_2_and_one_message(recipe, run, capsys):
    build = placed(recipe, run)["build"]
    weights = build.directory / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    failed = launch("run", recipe, "--run", run, "--only", "train")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert f"{weights}: its content has changed" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("when the cause is removed, go on with: ")
    assert "failed" in status(run, capsys)


def test_a_group_s_exit_code_is_its_first_failing_process_s(recipe, run):
    (placed(recipe, run)["build"].directory / "seal.json").write_text("{")
    failed = launch("run", recipe, "processes=2", "--run", run, "--only", "train")
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    *_, advice = failed.stderr.splitlines()
    assert advice.startswith("when the cause is removed, go on with: ")
    assert "seal.json: not a readable seal" in failed.stderr


def test_a_stage_that_another_process_works_on_is_left_alone(recipe, run, capsys):
    train = placed(recipe, run)["train"]
    train.directory.mkdir()
    with exclusive(train.directory):
        assert main(["run", str(recipe), "--run", str(run), "--only", "train"]) == 2
        assert f"{train.directory}: another process works here (pid" in capsys.readouterr().err
        assert "running" in status(run, capsys)


def test_a_finished_stage_with_a_damaged_seal_is_not_passed_over(recipe, run, capsys):
    seal = placed(recipe, run)["build"].directory / "seal.json"
    seal.write_text("{")
    assert main(["run", str(recipe), "--run", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"{seal}: not a readable seal" in error
    assert error.endswith(f"delete {seal.parent} and run the same command again\n")


@pytest.mark.parametrize("command", ["run", "plan", "status", "logs", "cancel", "submit"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "a part of the path is a file, not a folder (Not a directory); choose another path"),
        ("file/below", "a part of the path is a file, not a folder (Not a directory); choose another path"),
        ("x" * 300, "the path is too long (File name too long); choose another path"),
        ("/".join(["y" * 99] * 42), "the path is too long (File name too long); choose another path"),
    ],
)
def test_a_path_that_no_run_can_have_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys, command, place, message):
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "file").touch()
    run = f"{tmp_path}/{place}"
    if command in ("run", "plan", "submit"):
        profile = ["--profile", "slurm/profiles/cpu_test.yaml"] if command == "submit" else []
        arguments = ["configs/demo.yaml", *profile, "--run", run]
    else:
        arguments = [run, *(["train"] if command == "logs" else [])]
    assert main([command, *arguments]) == 2
    assert capsys.readouterr().err == f"{run}: {message}\n"


def test_an_error_of_the_disk_that_nobody_foresaw_keeps_its_traceback(monkeypatch, capsys):
    def fail(*arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error", "/somewhere")

    monkeypatch.setattr("launch.plan.print_plan", fail)
    with pytest.raises(OSError, match="/somewhere"):
        main(["plan", "configs/demo.yaml"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "configs/none.yaml"], "configs/none.yaml: no such file"),
        (["run", "configs/demo.yaml", "processes=5", "global_batch=64"], "64 images cannot be shared equally by 5"),
        (["run", "configs/demo.yaml", "--only", "melt"], "--only: this recipe needs no stage 'melt'"),
        (["plan", "configs/demo.yaml", "epochs=none"], "train.epochs"),
        (["status", "configs"], "this is not a run directory"),
    ],
)
def test_mistakes_of_the_user_end_with_2_and_a_message(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    assert main([*arguments, *(["--run", str(tmp_path)] if arguments[0] != "status" else [])]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_falls_into_single_images_is_warned_of_before_anything_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("launch.run.run_stage", lambda *_: 1)
    assert main(["run", str(REPOSITORY / "configs" / "demo.yaml"), "global_batch=127", "--run", str(tmp_path)]) == 1
    before, started, _ = capsys.readouterr().out.partition("[1/7] prepare")
    assert started
    assert "warning: the batch norms see 1 image at a time" in before


def test_gates_asked_of_a_network_without_blocks_are_warned_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("launch.run.run_stage", lambda *_: 1)
    words = ["report.activations=true", "model.se=null", "model.expect=null", "--run", str(tmp_path)]
    assert main(["run", str(REPOSITORY / "configs" / "demo.yaml"), *words]) == 1
    assert f"{NO_GATES}the network has no squeeze-and-excitation blocks\n" in capsys.readouterr().out


def test_gates_asked_of_test_images_are_warned_of(tmp_path):
    test = {"data": {"test": "test"}, "evaluate": {"split": "test"}, "report": {"activations": True}}
    wanted = f"{NO_GATES}evaluate.split is test, and they are measured over validation images"
    assert warnings([("", small_recipe(tmp_path, **test), {})]) == [wanted]
