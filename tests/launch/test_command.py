from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.command import parse
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR
from pipeline.ground.interpreter import command_line, module_environment
from tests.conftest import REPOSITORY


def test_help_answers_without_importing_anything_heavy():
    code = (
        "import runpy, sys; sys.argv = ['launch', 'run', '--help']\n"
        "try: runpy.run_module('launch', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'rich', 'ruamel', 'wandb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--accept-changes" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_overrides_may_stand_before_and_after_options():
    arguments = parse(["run", "a.yaml", "epochs=1", "--run", "there", "processes=2", "--only", "train", "seed=3"])
    assert arguments.overrides == ["epochs=1", "processes=2", "seed=3"]
    assert arguments.run == Path("there")
    assert arguments.only == "train"


def test_a_recipe_is_named_by_its_path_or_as_one_of_the_folder_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(["run", "demo"]).config == REPOSITORY / "configs" / "demo.yaml", "the one of the source"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").touch()
    assert parse(["tune", "demo"]).config == Path("configs/demo.yaml"), "one's own"
    (tmp_path / "demo").mkdir()
    assert parse(["plan", "demo"]).config == Path("configs/demo.yaml"), "a folder is no recipe"
    assert parse(["plan", "other/demo.yaml"]).config == Path("other/demo.yaml")
    arguments = parse(["submit", "demo", "cifar10", "--profile", "p.yaml"])
    assert arguments.other_configs == [REPOSITORY / "configs" / "cifar10.yaml"]


def test_what_stands_behind_options_is_answered_like_what_stands_before_them():
    assert parse(["run", "a.yaml", "--run", "there", "/data/pets"]).overrides == ["/data/pets"]
    assert parse(["submit", "a.yaml", "--profile", "p.yaml", "b.yaml"]).other_configs == [Path("b.yaml")]


@pytest.mark.parametrize("command", ["plan", "run", "submit"])
def test_further_recipes_and_seeds_make_a_sweep(command):
    arguments = parse(
        [
            command,
            "a.yaml",
            "b.yaml",
            "epochs=1",
            *(["--profile", "p.yaml"] * (command != "run")),
            "--seeds",
            "1,2",
            "processes=2",
        ]
    )
    assert (arguments.config, arguments.other_configs) == (Path("a.yaml"), [Path("b.yaml")])
    assert (arguments.overrides, arguments.seeds) == (["epochs=1", "processes=2"], [1, 2])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run"], "required: CONFIG"),
        (["run", "a.yaml", "--from", "train", "--only", "build"], "not allowed with argument"),
        (["run", "a.yaml", "--lr=0.1"], "--lr=0.1: keys of the recipe have no dashes; write lr=0.1"),
        (["plan", "a.yaml", "--train.epochs", "3"], "keys of the recipe have no dashes; write train.epochs=3"),
        (["run", "a.yaml", "--weight-decay", "0"], "keys of the recipe have no dashes; write weight_decay=0"),
        (
            ["run", "a.yaml", "--batch-size", "32"],
            "--batch-size: keys of the recipe have no dashes; write train.global_batch (images of an optimizer step",
        ),
        (["run", "a.yaml", "--resume"], "--resume: there is no such key: the same command goes on where the run was"),
        (["run", "a.yaml", "--weights", "x"], "--weights: ambiguous key (it may be model.weights or evaluate.weights)"),
        (["run", "a.yaml", "--plans", "[a, b]"], "no dashes; write 'plans=[a, b]'"),
        (["run", "a.yaml", "--simulate"], "unrecognized arguments: --simulate\n"),
        (["run", "a.yaml", "--lr", "--epochs"], "no dashes; write lr=VALUE"),
        (
            ["submit", "demo", "/usr", "--profile", "p.yaml"],
            "must be a recipe (given the folder /usr; that of the images is data.root=/usr, behind the recipe)",
        ),
        (["run", "dmo"], "argument CONFIG: dmo: no such recipe (did you mean demo?)"),
        (
            ["plan", "qqq"],
            "argument CONFIG: qqq: no such recipe (there are: cifar10, cifar10_archive, ",
        ),
        (["submit", "demo", "cfar10", "--profile", "p.yaml"], "cfar10: no such recipe (did you mean cifar10?)"),
        (["status", "runs/demo", "--speed=1"], "unrecognized arguments: --speed=1"),
        (["status", "runs/demo", "epochs=1"], "unrecognized arguments: epochs=1"),
        (["submit", "a.yaml"], "required: --profile"),
        (
            ["submit", "a.yaml", "--profile", "p.yaml", "--seeds", "1,b"],
            "--seeds: must be whole numbers with commas between them (given 1,b)",
        ),
        (["status", "runs/demo", "--watch", "0"], "--watch: must be a number of seconds, at most a day (given 0)"),
        (["logs", "runs/demo"], "required: STAGE"),
        (["train", "a.yaml"], "invalid choice: 'train'"),
        ([], "required: {plan,run,check,submit,status,logs,cancel,predict,fuse,score,table,figure,"),
    ],
)
def test_wrong_command_lines_end_with_2_and_a_message(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_suggested_commands_name_the_python_that_runs_and_quote_what_must_be(monkeypatch):
    monkeypatch.setattr(sys, "executable", str(Path.cwd() / ".venv" / "bin" / "python"))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/python")
    assert command_line("run", Path("my recipe.yaml")) == ".venv/bin/python -m launch run 'my recipe.yaml'"
    monkeypatch.setattr("shutil.which", lambda name: sys.executable)
    assert command_line("status", "runs/demo") == "python -m launch status runs/demo"


@pytest.mark.parametrize(
    ("variation", "runs"),
    [
        ("processes=2", ["runs/demo_processes_2"]),
        ("'plans=[a, b]' data.root=/x", ["runs/demo_plans_[a,_data.root__x"]),
        ("--only build", []),
        ("--run elsewhere lr=1", ["runs/demo_lr_1", "elsewhere"]),  # the last one counts
    ],
)
def test_a_variation_of_the_demo_has_a_run_of_its_own(variation, runs):
    command = ["make", "--no-print-directory", "-n", "demo", f"ARGS={variation}"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=REPOSITORY, env=outside, capture_output=True, text=True, check=True)
    command = shlex.split(done.stdout.splitlines()[-1])
    assert [word for before, word in itertools.pairwise(command) if before == "--run"] == runs
    assert command[-len(shlex.split(variation)) :] == shlex.split(variation)


@pytest.mark.parametrize("words", [["--version"], ["keys"], ["networks"], ["plan", "demo"]], ids=lambda words: words[0])
def test_a_reader_that_has_gone_is_no_traceback(words):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        command = [sys.executable, "-m", "launch", *words]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (EXIT_DONE, "")


def test_a_table_that_could_not_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "launch", "networks"]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (EXIT_USER_ERROR, "standard output: No space left on device\n")


def test_a_dry_run_takes_no_word_behind_it(capsys):
    for word, wanted in (("--dry-run", "table"), ("--dry-run=scripts", "scripts")):
        arguments = parse(["submit", "a.yaml", "--profile", "p.yaml", word, "epochs=2"])
        assert (arguments.dry_run, arguments.overrides) == (wanted, ["epochs=2"])
    with pytest.raises(SystemExit):
        parse(["submit", "--help"])
    assert "[--dry-run] [--dry-run=scripts]" in " ".join(capsys.readouterr().out.split())


def test_messages_and_help_begin_as_the_program_was_called(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/senet154"])
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert command_line("status", "runs/demo") == "senet154 status runs/demo"
    monkeypatch.setattr(os, "environ", module_environment())
    monkeypatch.setattr(sys, "argv", ["/src/stages/__main__.py"])
    assert command_line("status", "runs/demo") == "senet154 status runs/demo", "a child's messages too"
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert "usage: senet154 " in shown
    assert "  senet154 run configs/demo.yaml" in shown
    assert "python -m launch" not in shown
