"""A sweep of four runs, two of which differ in their evaluation alone: real stage processes, started and killed for a
launcher in the test's process."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from launch import run as launch_run
from launch.__main__ import main
from launch.child import Supervisor
from launch.stage_run import run_stage
from launch.sweep import read_sweep, set_up_runs
from pipeline.config.operations import TrackingConfig
from pipeline.config.reader import read_run_config, write_run_config
from pipeline.config.sweep import members_of, write_sweep
from pipeline.ground.ranks import Ranks
from pipeline.running import runner
from pipeline.running.attempts import note_start, read_attempts
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import exclusive
from pipeline.store.seal import is_sealed
from pipeline.tracking.events import EventLog, Listener, read_events
from pipeline.tracking.listeners import listening
from pipeline.tracking.tracked import Tracked
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.images import write_image_folders
from tests.processes import finish, start_stage
from tests.recipes import small_recipe
from tests.sealed import seal_part

pytestmark = pytest.mark.faults

MEMBERS = ["batch8-seed1", "batch16-seed1", "batch8-seed2", "batch16-seed2"]
FOUR_PROCESSES = f"{REPOSITORY}/slurm/profiles/cpu_test.yaml"
SWEEP = ("sweep.evaluate.batch=[8,16]", "--seeds", "1,2")


class ForkedSupervisor(Supervisor):
    """Starts stages from the tests' server of processes, and may interrupt one."""

    interrupt: Callable[[str, Path], int | None] = staticmethod(lambda stage, run: None)
    """The signal for a stage of a run, once it has trained a step."""

    def run(self, command: list[str], environment: object) -> int:
        stage, run = command[command.index("stages") + 1], Path(command[-1])
        if stage == "report":  # seconds, and the same for any run
            seal_part(stages(run)[stage].current)
            return 0
        (process,) = processes = start_stage(run, stage)
        number = self.interrupt(stage, run)
        if number is not None:
            directory = stages(run)[stage].directory
            while not any(True for _ in read_events(directory, "train")):
                assert process.is_alive()
            assert process.pid is not None
            os.kill(process.pid, number)
            self.stop.reason = "SIGTERM" if number == signal.SIGTERM else None
        (code,) = finish(processes)
        assert code is not None
        return code


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    images = write_image_folders(tmp_path / "images", num_classes=4, train_per_class=12, val_per_class=2)
    config = small_recipe(
        images,
        train={"epochs": 2, "frozen_epochs": 0},
        schedule={"drop_epochs": []},
        tracking={"log_every_steps": 1},
        checkpoint={"every_steps": 1},
    )
    write_run_config(tmp_path / "recipe", config)
    monkeypatch.setattr(launch_run, "Supervisor", ForkedSupervisor)
    return tmp_path / "recipe" / "config.yaml"


def stages(run: Path) -> dict[str, PlacedStage]:
    return place_stages(read_run_config(run), run, STAGES)


def lines(text: str) -> dict[str, str]:
    """The rows of a sweep's status by member."""
    rows = re.findall(r"^(\S+-seed\d)  +(.*)$", text, re.MULTILINE)
    return {name: " ".join(row.split()) for name, row in rows}


def test_a_killed_sweep_goes_on_with_the_same_command_and_does_what_is_equal_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    command = ["run", str(recipe), *SWEEP, "--run", str(folder)]

    def kill(stage: str, run: Path) -> int | None:
        return signal.SIGKILL if (stage, run.name) == ("train", "batch8-seed1") else None

    monkeypatch.setattr(ForkedSupervisor, "interrupt", staticmethod(kill))
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "train: failed after" in err
    assert "[3/6] train: has failed before, as part of another run" in err
    assert "batch8-seed2: run 3 of 4" in out
    shown = lines(out)
    assert list(shown) == MEMBERS
    assert shown["batch8-seed1"].startswith("train killed, resumable its process, started")
    assert re.fullmatch(r"done top-1 error \d+\.\d\d % \(\d of 8\)", shown["batch16-seed2"])
    assert f"the sweep in {folder}: 2 of 4 runs done" in out
    assert f"--seeds 1,2 'sweep.evaluate.batch=[8,16]' --run {folder}" in err.splitlines()[-1]
    assert "to go on" not in out, "said once, by the line above"

    for member in MEMBERS[:2]:
        (folder / member / "wandb" / "offline-run-1").mkdir(parents=True)
    assert main(["status", str(folder)]) == 0
    out = capsys.readouterr().out
    uploads = " ".join(f"{folder / member}/wandb/offline-run-*" for member in MEMBERS[:2])
    assert "Weights & Biases was offline; to upload: " in out
    assert f" -m wandb sync {uploads}\n" in out
    assert "\nto go on: the same command again, or any of its runs by itself\n" in out

    monkeypatch.setattr(ForkedSupervisor, "interrupt", staticmethod(lambda stage, run: None))
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"[3/6] train: already done in {folder / 'batch16-seed1'}/train-" in out
    done = collections.Counter(path.name.partition("-")[0] for path in folder.glob("*-*") if is_sealed(path))
    assert done == {"prepare": 2, "build": 2, "train": 2, "evaluate": 4, "fuse": 4, "report": 4}
    attempts = [len(read_attempts(stages(folder / member)["train"].directory)) for member in MEMBERS]
    assert attempts == [2, 2, 1, 1]
    assert main(["status", str(folder)]) == 0
    assert set(lines(capsys.readouterr().out)) == set(MEMBERS)
    assert main(["plan", *command[1:]]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^train +4 +2 +2$", out, re.MULTILINE), "in four runs, two different ones, both done"
    assert out.count("  nothing") == 4


def test_a_stopped_sweep_ends_with_75_before_the_next_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        ForkedSupervisor,
        "interrupt",
        staticmethod(lambda stage, run: signal.SIGTERM if stage == "train" else None),
    )
    assert main(["run", str(recipe), *SWEEP, "--run", str(tmp_path / "runs")]) == 75
    out, err = capsys.readouterr()
    assert "run 2 of 4" not in out
    assert err.splitlines()[-1].startswith("to go on: ")
    assert main(["status", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert out.endswith("to go on: the same command again, or any of its runs by itself\n")
    shown = lines(out)
    assert shown["batch8-seed1"].startswith("train stopped, resumable")
    assert shown["batch8-seed2"].startswith("build to run"), shown


def test_a_plan_of_a_sweep_counts_what_is_equal_once_and_prices_the_rest(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        str(recipe),
        *SWEEP,
        "data.dataset=digits",
        "data.root=null",
        "model.num_classes=10",
        "--run",
        str(tmp_path / "runs"),
    ]
    assert main(["plan", *words, "resources.expected_images_per_second=100"]) == 0
    out = capsys.readouterr().out
    assert f"{recipe} in {tmp_path / 'runs'}, a sweep of 4 runs" in out
    rows = {name: row.split() for name, row in re.findall(r"^([a-z]+) +((?:\d +){2}\d)$", out, re.MULTILINE)}
    assert rows == {
        "prepare": ["4", "1", "0"],
        "build": ["4", "2", "0"],
        "train": ["4", "2", "0"],
        "evaluate": ["4", "4", "0"],
        "fuse": ["4", "4", "0"],
        "report": ["4", "4", "0"],
    }
    steps = 2 * round(2 * 1438 / 24)
    assert f"training: 2 runs with about {steps} steps left" in out
    assert re.search(r"about \d+ s one after another, 0\.0\d+ process hours, at 1 x 100 images/s \(", out), out
    assert not (tmp_path / "runs").exists()
    assert main(["plan", str(recipe), "sweep.seed=[1]", *words[4:]]) == 0
    assert "a sweep of 1 run\n" in capsys.readouterr().out
    assert main(["plan", *words, "--simulate"]) == 2
    assert "--simulate: takes a single run (given a sweep of 4); add sweep=null" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("plan",), ("run",), ("submit", "--dry-run", "--profile", FOUR_PROCESSES)])
def test_a_member_that_is_refused_is_named(
    recipe: Path, tmp_path: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep.train.global_batch=[24,25]", "processes=4", "--run", str(tmp_path / "runs")]
    assert main([command[0], str(recipe), *words, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("global_batch25: "), error
    assert "train.global_batch: 25 images cannot be shared equally by 4 processes" in error
    assert not (tmp_path / "runs").exists()


def test_a_warning_names_the_members_that_it_is_about_unless_they_are_all(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    words = ["sweep.execution.compile=[false,true]", "data.root=nowhere", "--run", str(tmp_path / "runs")]
    assert main(["plan", str(recipe), *words]) == 0
    out = capsys.readouterr().out
    assert "\nwarning: on this machine `run` would refuse: compile_true: execution.compile: torch.compile needs" in out
    assert out.count("\nwarning: on this machine `run` would refuse: data.root: must be a folder") == 1


def test_a_plan_takes_the_rate_of_a_run_of_the_same_network_and_names_it(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(recipe), "sweep.model.name=[se_resnet_nano,resnet_nano]", "--seeds", "1,2"]
    words += ["data.dataset=digits", "data.root=null", "model.num_classes=10"]
    folder = tmp_path / "runs"
    sweep = read_sweep([recipe], words[1:2] + words[4:], folder, [1, 2])
    first = next(member for member in sweep.members if member.config.model.name == "resnet_nano")
    run = sweep.run_of(first)
    write_run_config(run, first.config)
    train = place_stages(first.config, run, STAGES)["train"].directory
    train.mkdir()
    note_start(train, Ranks())
    with contextlib.closing(EventLog(train)) as events:
        events.write("train", global_step=1, epoch=0.1, images_per_second=160.0)
    write_sweep(folder, sweep.members)
    capsys.readouterr()
    assert main(["plan", *words, "--run", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"at 1 x 160 images/s (measured in {first.name}'s train); validation" in out
    assert "not in it: se_resnet_nano, of which no run has measured its rate\n" in out


def test_a_changed_sweep_is_refused_before_any_of_its_runs_is_touched(
    shared: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seal_part(stages(shared.with_name("seed2"))["build"].current)
    before = {path: path.read_bytes() for path in shared.parent.rglob("config.yaml")}
    words = [str(recipe), "--seeds", "1,2", "--run", str(shared.parent), "model.bn_momentum=0.2"]
    assert main(["plan", *words]) == 0
    assert "`run` will want --accept-changes, for 1 run in all" in capsys.readouterr().out
    assert main(["run", *words]) == 2
    assert "model.bn_momentum: 0.1 -> 0.2" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in shared.parent.rglob("config.yaml")}


def test_checkpoints_of_all_runs_must_have_room(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=40_000_000)
    monkeypatch.setattr("launch.run_directory.shutil.disk_usage", lambda path: usage)
    command = ["run", str(recipe), "checkpoint.keep_last=3", "--run", str(tmp_path / "runs")]
    assert main([*command, "--seeds", "1,2"]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / 'runs'}: the checkpoints will need 44.7 MB (each 4.5 MB, 4 kept" in message
    assert "40.0 MB are free there" in message


def test_a_directory_is_that_of_a_run_or_of_a_sweep(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own").mkdir()
    write_run_config(tmp_path / "own", read_run_config(recipe.parent))
    assert main(["run", str(recipe), *SWEEP, "--run", str(tmp_path / "own")]) == 2
    assert f"{tmp_path / 'own'}: a run of its own; give another --run DIR to the sweep" in capsys.readouterr().err
    (tmp_path / "sweep").mkdir()
    write_run_config(tmp_path / "sweep" / MEMBERS[0], read_run_config(recipe.parent))
    assert main(["plan", str(recipe), *SWEEP, "--run", str(tmp_path / "sweep")]) == 2
    assert f"{tmp_path / 'sweep' / MEMBERS[0]}: a run of its own" in capsys.readouterr().err
    (tmp_path / "sweep" / "sweep.json").write_text('{"members": {"batch8-seed1": {}}}')
    assert main(["plan", str(recipe), "--run", str(tmp_path / "sweep")]) == 2
    assert (
        f"{tmp_path / 'sweep'}: the directory of a sweep; give another --run DIR to this run" in capsys.readouterr().err
    )


def test_a_sweep_of_the_command_line_is_kept_out_of_the_directory_of_the_recipe(recipe: Path) -> None:
    assert read_sweep([recipe], [], None).folder == Path("runs/small")
    assert read_sweep([recipe], [], None, [1, 2]).folder == Path("runs/small-sweep")
    for override in ("sweep.seed=[1,2]", "sweep={seed: [1, 2]}", " sweep = {seed: [1, 2]}"):
        assert read_sweep([recipe], [override], None).folder == Path("runs/small-sweep")
    swept = recipe.with_name("swept.yaml")
    swept.write_text(f"extends: {recipe}\nname: swept\nsweep: {{seed: [1, 2]}}\n")
    assert read_sweep([swept], [], None).folder == Path("runs/swept")


def test_several_recipes_are_a_sweep_named_by_them(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"extends: {recipe}\nname: other\noptim: {{lr: 0.1}}\n")
    assert main(["plan", str(recipe), str(other), "--seeds", "1,2", "--run", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\S+-seed\d)  ", out, re.MULTILINE) == [
        "small-seed1",
        "small-seed2",
        "other-seed1",
        "other-seed2",
    ]
    other.write_text(f"extends: {recipe}\nname: other\n")
    assert main(["plan", str(recipe), str(other), "--run", str(tmp_path / "runs")]) == 2
    assert "small and other are the same: no result depends on what they differ in" in capsys.readouterr().err


@pytest.fixture
def shared(recipe: Path, tmp_path: Path) -> Path:
    """A member of a sweep, set up."""
    sweep = read_sweep([recipe], [], tmp_path / "runs", [1, 2])
    runs = [(sweep.run_of(member), member.config) for member in sweep.members]
    placed = [(run, config, place_stages(config, run, STAGES)) for run, config in runs]
    set_up_runs(sweep, placed, accept_changes=False)
    return placed[0][0]


def in_the_meantime(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """What happens while a process waits for a lock."""
    monkeypatch.setattr("pipeline.store.lock.time.sleep", lambda seconds: action() if seconds > 1 else None)


def test_a_stage_that_another_run_of_the_sweep_makes_is_waited_for_and_then_found_done(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = stages(shared)["build"]
    (holder := exclusive(build.directory)).__enter__()

    def done_by_the_other() -> None:
        holder.__exit__(None, None, None)
        assert runner.run_stage("build", read_run_config(shared), shared, STAGES) == 0

    in_the_meantime(monkeypatch, done_by_the_other)
    assert runner.run_stage("build", read_run_config(shared), shared, STAGES) == 0
    out = capsys.readouterr().out
    assert (
        out.splitlines()[0]
        == f"build: waiting for pid {os.getpid()} on {os.uname().nodename}, at work in {build.directory}"
    )
    assert out.splitlines()[-1] == f"build: done by another process in {build.directory.resolve()}"
    assert len(read_attempts(build.directory)) == 1


def test_processes_that_another_run_of_the_sweep_overtakes_wait_again(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher's wait is over before its processes have the lock."""
    placed = stages(shared)
    for part in (*placed["prepare"].parts, *placed["build"].parts):
        seal_part(part)
    train, codes = placed["train"], list[int | None]()
    train.directory.mkdir(exist_ok=True)

    class Overtaken(Supervisor):
        def run(self, command: list[str], environment: object) -> int:
            assert "pipeline.running.torchrun" in command
            holder.enter_context(exclusive(train.directory))
            note_start(train.directory, Ranks())
            codes.extend(finish(start_stage(shared, "train", world_size=2, ranks=[0])))
            return 1  # torchrun's, whatever its processes say

    def done_by_the_other() -> None:
        seal_part(train.current)
        holder.close()

    in_the_meantime(monkeypatch, done_by_the_other)
    config = read_run_config(shared, ["resources.processes=2"])
    with contextlib.ExitStack() as holder:
        assert run_stage("train", train, shared, config, Overtaken()) == 0
    assert codes == [2]
    waiting, done = capsys.readouterr().out.splitlines()
    assert waiting.startswith("train: waiting for pid ")
    assert done == "train: done by another process"


def test_a_stop_ends_the_waiting_for_another_run_of_the_sweep_with_75(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = stages(shared)["build"]
    in_the_meantime(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with exclusive(build.directory):
        assert runner.run_stage("build", read_run_config(shared), shared, STAGES) == 75
        assert main(["run", str(shared / "config.yaml"), "--run", str(shared)]) == 75
    assert "build: stopped by SIGTERM while waiting" in capsys.readouterr().err


def test_two_launches_list_the_members_of_both(shared: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared.parent
    third, fourth = (read_sweep([recipe], [], folder, [seed]) for seed in (3, 4))
    (holder := exclusive(folder)).__enter__()

    def listed_by_the_other() -> None:
        write_sweep(folder, third.members)
        holder.__exit__(None, None, None)

    in_the_meantime(monkeypatch, listed_by_the_other)
    set_up_runs(fourth, [], accept_changes=False)
    assert [run.name for run in members_of(folder)] == ["seed1", "seed2", "seed3", "seed4"]


def test_a_sweep_is_a_group_in_w_and_b(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str | None] = []

    def listening_to(settings: TrackingConfig, tracked: Tracked) -> AbstractContextManager[tuple[Listener, ...]]:
        found.append(tracked.group)
        return listening(settings, tracked)

    monkeypatch.setattr(runner, "listening", listening_to)
    assert runner.run_stage("build", read_run_config(shared), shared, STAGES) == 0
    assert found == ["runs"]
