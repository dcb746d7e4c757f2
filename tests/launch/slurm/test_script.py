from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from launch.slurm.profile import Shape, load_profile
from launch.slurm.script import JobScript, options, render
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.ground.interpreter import SOURCE
from tests.conftest import REPOSITORY

GOLDEN = Path(__file__).parent / "golden"
CPU = JobScript(
    stage="evaluate",
    key="0123456789",
    run=Path("/data/runs/demo"),
    log=Path("/data/runs/demo/jobs/evaluate-0123456789-%j.log"),
    directory=Path("/home/anna/senet"),
    shape=Shape(minutes=30),
    setup=(),
    python=("/home/anna/senet/.venv/bin/python",),
    warning_seconds=30,
    requeue_on_failure=0,
    source=Path("/home/anna/senet"),
)


def gpu() -> JobScript:
    """Eight nodes, with everything that a profile can have and paths that need quotes."""
    shape = load_profile(REPOSITORY / "slurm" / "profiles" / "8x8_gpu.yaml").shapes()["train"]
    places = {"account": "vision", "qos": "long", "constraint": "a100&ib"}
    return dataclasses.replace(
        CPU,
        stage="train",
        run=Path("/data/Anna's runs/50% more"),
        log=Path("/data/Anna's runs/50% more/jobs/train-0123456789-%j.log"),
        shape=shape.model_copy(update=places),
        setup=("module load cuda/13.0", 'export NCCL_SOCKET_IFNAME="ib0"'),
        python=("apptainer", "exec", "--nv", "/images/se net.sif", "python"),
        warning_seconds=300,
        requeue_on_failure=2,
    )


def array() -> JobScript:
    """The same stage of two members of a sweep of four."""
    tasks = {0: (Path("/data/runs/e/seed1"), "0123456789"), 2: (Path("/data/runs/e/seed 2"), "abcdef0123")}
    return dataclasses.replace(
        CPU, run=Path("/data/runs/e"), log=Path("/data/runs/e/jobs/evaluate-%A_%a.log"), tasks=tasks
    )


def variable(text: str, name: str, index: str = "") -> str:
    """What bash makes of an assignment in a script."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}="))
    command = f'{line}\nprintf %s "${{{name}{index}}}"'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("name", "job"), [("cpu", CPU), ("gpu", gpu()), ("array", array())])
def test_a_script_is_what_was_reviewed(name, job):
    assert render(job) == (GOLDEN / f"{name}.sbatch").read_text()


@pytest.mark.parametrize("job", [CPU, gpu(), array()], ids=["cpu", "gpu", "array"])
def test_bash_can_read_it(job):
    done = subprocess.run(["bash", "-n"], input=render(job), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["launch.slurm.requeue", "stages"])
def test_a_folder_of_the_user_s_is_never_taken_for_a_package_of_ours(module, tmp_path):
    assert [line for line in render(CPU).splitlines() if f'"${{PYTHON[@]}}" -P -m {module} ' in line]
    for name in ("stages.py", "launch.py", "pipeline.py", "pydantic.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_python_of_a_job_looks_into_its_working_directory(tmp_path):
    """Not by an empty entry of PYTHONPATH either."""
    text = (REPOSITORY / "launch" / "slurm" / "env.sh").read_text().partition("export PYTHONUNBUFFERED")[0]
    for before in ("", ":", "/somewhere::/else:", ":/somewhere"):
        command = f"SOURCE={REPOSITORY}\n{text}\n{sys.executable} -c 'import sys; print(*sys.path, sep=chr(10))'"
        env = {**os.environ, "PYTHONPATH": before}
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        paths = done.stdout.splitlines()
        assert str(REPOSITORY) in paths
        assert not {"", ".", str(tmp_path)} & set(paths), before
    calls = [line for line in render(CPU).splitlines() if '"${PYTHON[@]}"' in line]
    assert calls
    assert all('"${PYTHON[@]}" -P -m ' in line for line in calls)


def run_setup(tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run a job's script up to the end of its setup lines."""
    text = (
        render(dataclasses.replace(CPU, setup=lines, source=REPOSITORY)).partition("trap - ERR\n")[0] + "echo went on\n"
    )
    script = tmp_path / "script"
    script.write_text(text)
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("line", "code"),
    [("module() { false; }; module load cuda/99", 1), ("source missing.sh", 1), ("export A=b; B=$(exit 3)", 3)],
)
def test_a_setup_line_that_fails_ends_the_job_and_is_named(line, code, tmp_path):
    done = run_setup(tmp_path, "true", line)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.endswith(f"this setup line of the profile ended with code {code}: {line}\n")
    assert "went on" not in done.stdout


def test_setup_lines_that_succeed_may_contain_commands_that_do_not(tmp_path):
    (tmp_path / "activate").write_text("grep -q PS1 /dev/null\nfalse\nexport FOUND=yes\n")
    done = run_setup(tmp_path, "[ -d missing ] && export A=b", "if false; then", "  exit 7", "fi", "source ./activate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_what_a_job_reads_comes_with_an_installed_package():
    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "launch"
    ]
    packed = {file for pattern in patterns for file in (REPOSITORY / "launch").glob(pattern)}
    names = ("stage.sbatch", "check.sbatch", "setup.sh", "env.sh")
    assert packed >= {REPOSITORY / "launch" / "slurm" / name for name in names}
    assert 'source "$SOURCE/launch/slurm/env.sh"' in render(CPU)
    assert 'source "$SOURCE/launch/slurm/setup.sh"' in render(CPU)


@pytest.mark.parametrize("name", ["stage", "check"])
def test_every_place_of_a_template_is_filled_in(name):
    template = (REPOSITORY / "launch" / "slurm" / f"{name}.sbatch").read_text().splitlines()
    assert [line for line in template if line.startswith("@")] == ["@OPTIONS@", "@SETTINGS@", "@SETUP@"]
    assert not [line for line in render(CPU, name).splitlines() if line.startswith("@")]


@pytest.mark.parametrize("name", ["a b", "it's", 'say "hi"', "$HOME", "`id`", "a;b", "back\\slash", "*", "-x", "ü"])
def test_no_name_is_read_as_anything_but_a_name(name):
    run = Path("/runs") / name
    text = render(dataclasses.replace(CPU, run=run, python=("python", name)))
    assert variable(text, "RUN") == str(run)
    assert variable(text, "PYTHON", "[1]") == name
    header = next(line for line in text.splitlines() if line.startswith("#SBATCH --job-name"))
    read_by_sbatch = shlex.split(header.removeprefix("#SBATCH ").replace("\\\\", "\\"))
    assert read_by_sbatch == [f"--job-name={name}-evaluate"]


@pytest.mark.parametrize(("task", "run", "key"), [(0, "seed1", "0123456789"), (2, "seed 2", "abcdef0123")])
def test_a_task_of_an_array_takes_the_run_of_its_number(task, run, key):
    lines = [line for line in render(array()).splitlines() if line.startswith(("RUN", "KEY"))]
    command = "\n".join([f"SLURM_ARRAY_TASK_ID={task}", *lines, 'printf "%s|%s" "$RUN" "$KEY"'])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == f"/data/runs/e/{run}|{key}"


def test_a_line_break_is_refused():
    with pytest.raises(UserError, match="a line break cannot be passed to SLURM"):
        render(dataclasses.replace(CPU, run=Path("/runs/a\n#SBATCH --uid=0")))


def test_a_percent_sign_of_a_folder_is_not_taken_for_one_of_sbatch_s():
    assert options(gpu())["output"] == "/data/Anna's runs/50%% more/jobs/train-0123456789-%j.log"


def test_what_a_profile_does_not_say_is_left_to_the_cluster():
    assert not {"partition", "account", "qos", "constraint", "mem", "gpus-per-node"} & options(CPU).keys()


def test_the_body_knows_where_the_project_is():
    assert variable(render(dataclasses.replace(CPU, source=REPOSITORY)), "SOURCE") == str(REPOSITORY)
