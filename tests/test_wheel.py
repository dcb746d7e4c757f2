"""The program installed from a wheel, used in a folder of the user's that has modules of the same names as ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable

import pytest

from tests.conftest import REPOSITORY

PACKED = ("pipeline", "stages", "launch", "configs", "slurm", "pyproject.toml", "README.md", "LICENSE")
TAKEN = ("stages", "launch", "pipeline", "pydantic", "torch", "json")
SHORT = (
    *("epochs=1", "frozen_epochs=0", "warmup_epochs=0", "tracking.wandb=offline"),
    "plans=[{name: center32, crops: [{resize_px: 32, crop_px: 32}]}]",
)
Senet154 = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def senet154(tmp_path_factory: pytest.TempPathFactory) -> Senet154:
    """Run `senet154` of a fresh environment, far from the checkout; it borrows this one's other packages."""
    place = tmp_path_factory.mktemp("installed")
    source = place / "source"
    source.mkdir()
    for name in PACKED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(place)], cwd=source, capture_output=True, text=True, check=True
    )
    wheel = place / built.stdout.split()[-1]
    shutil.rmtree(source)
    venv = place / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    packages = venv / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    folder = place / "folder"
    (folder / "configs").mkdir(parents=True)
    for name in TAKEN:
        (folder / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    environment = {**os.environ, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "WANDB_MODE": "offline"}
    environment.pop("PYTHONPATH", None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        found = [str(next(folder.glob(word))) if "*" in word else word for word in words]
        return subprocess.run(["senet154", *found], cwd=folder, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def demo(senet154: Senet154) -> subprocess.CompletedProcess[str]:
    """The demo's end, after one epoch; what it made is in the folder `demo`."""
    return senet154("run", "demo", *SHORT, "--run", "demo")


def test_the_pipeline_runs_from_a_wheel_and_imports_nothing_from_the_working_directory(
    demo: subprocess.CompletedProcess[str],
) -> None:
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "report, to open in a browser: " in demo.stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--version"], "senet154 "),
        (["keys", "global_batch"], "train.global_batch"),
        (["plan", "configs/senet154_ilsvrc2017.yaml", "--profile", "slurm/profiles/8x8_gpu.yaml"], "64 processes"),
        (["submit", "configs/demo.yaml", "--profile", "slurm/profiles/cpu_test.yaml", "--dry-run=scripts"], "srun "),
        (["status", "demo"], "center32"),
        (["fuse", "demo", "--out", "fused"], "top-1 error"),
        (["predict", "demo", "demo/prepare-val-*/images/*/*"], "%"),
        (["weights", "export", "demo/build-*/weights.safetensors", "exported.pth", "--layout", "cadene"], "written: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_need_no_checkout(
    senet154: Senet154, demo: subprocess.CompletedProcess[str], words: list[str], answer: str
) -> None:
    done = senet154(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer in done.stdout


def test_what_is_to_be_typed_next_begins_with_the_name_it_was_started_by(senet154: Senet154) -> None:
    done = senet154("run", "configs/demo.yaml", "--only", "report", "--run", "new")
    assert "\n  senet154 run " in done.stderr


def test_a_recipe_that_is_nowhere_is_named_as_given(senet154: Senet154) -> None:
    done = senet154("plan", "configs/none.yaml")
    assert (done.returncode, done.stderr) == (2, "configs/none.yaml: no such file or directory\n")
