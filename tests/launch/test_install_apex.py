"""The script that builds Apex: what it checks, and what it runs. A build takes a CUDA toolkit, so nvcc is stood in for,
and, where PyTorch is not what is tested, so is the interpreter that would be installed into."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "launch" / "install_apex.sh"


def run_script(*arguments: str | Path, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("CUDA_PATH", "CPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env={**inherited, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
    )


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the script looks for in a checkout."""
    folder = tmp_path / "apex_source"
    for name in ("apex/optimizers/fused_sgd.py", "csrc/multi_tensor_sgd_kernel.cu"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    (folder / "setup.py").write_text("ENV_TO_FLAG = {'APEX_CUDA_EXT': '--cuda_ext'}\n")
    return folder


def toolkit(folder: Path, release: str, *, headers: bool = True) -> Path:
    """A CUDA toolkit by what the script sees of it."""
    said = f"Cuda compilation tools, release {release}, V{release}.88"
    executable(folder / "bin" / "nvcc", f"echo 'nvcc: NVIDIA (R) Cuda compiler driver'\necho '{said}'\n")
    (folder / "include").mkdir()
    if headers:
        (folder / "include" / "cuda_runtime.h").touch()
    return folder


def interpreter(
    folder: Path, cuda: str, cuda_home: str | Path, *, has_pip: bool = True, imports: str = "amp_C"
) -> Path:
    """A Python with a PyTorch for `cuda`, which builds nothing and can then import the extension named."""
    return executable(
        folder / "python",
        f"""
case "$*" in
  *torch.version.cuda*) printf '%s\\t%s\\t%s\\n' '{cuda}' '{cuda_home}' '/headers/cudnn/include' ;;
  '-m pip --version') exit {0 if has_pip else 1} ;;
  '-m pip install '*) env >'{folder}/environment'; echo "$*" >'{folder}/arguments' ;;
  '-c import torch, '*) case ' {imports} ' in *" ${{2#import torch, }} "*) ;; *) exit 1 ;; esac ;;
  '-c import apex.optimizers') ;;
  *) echo "unexpected: $*" >&2; exit 3 ;;
esac
""",
    )


def test_without_a_source_it_says_how_it_is_called() -> None:
    answer = run_script()
    assert answer.returncode == EXIT_USER_ERROR
    assert "usage: bash launch/install_apex.sh PATH_TO_APEX_SOURCE" in answer.stderr
    assert run_script("--help").returncode == EXIT_DONE


@pytest.mark.parametrize(
    ("removed", "problem"),
    [
        ("csrc/multi_tensor_sgd_kernel.cu", "is not a checkout of https://github.com/NVIDIA/apex"),
        ("setup.py", "(setup.py is missing)"),
    ],
)
def test_folder_that_is_not_nvidias_apex_is_refused(removed: str, problem: str, source: Path) -> None:
    (source / removed).unlink()
    answer = run_script(source)
    assert answer.returncode == EXIT_USER_ERROR
    assert f"{source}: " in answer.stderr
    assert problem in answer.stderr


def test_source_that_cannot_choose_its_extensions_is_refused(source: Path) -> None:
    (source / "setup.py").write_text("setup(name='apex')\n")
    answer = run_script(source)
    assert answer.returncode == EXIT_USER_ERROR
    assert "is too old" in answer.stderr


def test_pytorch_without_cuda_is_refused(source: Path, tmp_path: Path) -> None:
    answer = run_script(source, PYTHON=interpreter(tmp_path, "none", "none"))
    assert answer.returncode == EXIT_USER_ERROR
    assert "its PyTorch is built without CUDA" in answer.stderr


@pytest.mark.parametrize("cuda_home", ["none", "/nowhere"])
def test_missing_nvcc_is_named_with_the_release_that_is_needed(cuda_home: str, source: Path, tmp_path: Path) -> None:
    answer = run_script(source, PYTHON=interpreter(tmp_path, "13.0", cuda_home))
    assert answer.returncode == EXIT_USER_ERROR
    assert "nvcc was not found: Apex is compiled here and needs the CUDA toolkit 13.0" in answer.stderr


@pytest.mark.parametrize("release", ["12.8", "13.2"])
def test_nvcc_of_another_release_than_pytorchs_is_refused(release: str, source: Path, tmp_path: Path) -> None:
    cuda = toolkit(tmp_path / "cuda", release)
    answer = run_script(source, PYTHON=interpreter(tmp_path, "13.0", cuda))
    assert answer.returncode == EXIT_USER_ERROR
    assert f"{cuda}/bin/nvcc is CUDA {release}, PyTorch was built with CUDA 13.0" in answer.stderr
    assert not (tmp_path / "arguments").exists()


def test_nvcc_away_from_its_toolkit_is_refused(source: Path, tmp_path: Path) -> None:
    cuda = toolkit(tmp_path / "cuda", "13.0", headers=False)
    answer = run_script(source, PYTHON=interpreter(tmp_path, "13.0", cuda))
    assert answer.returncode == EXIT_USER_ERROR
    assert f"{cuda}: has nvcc but not the toolkit's headers" in answer.stderr


def test_build_is_told_which_extension_to_make_and_reported(source: Path, tmp_path: Path) -> None:
    cuda = toolkit(tmp_path / "cuda", "13.0")
    python = interpreter(tmp_path, "13.0", cuda, imports="amp_C")
    answer = run_script(source, PYTHON=python, CPATH="/mine")
    assert answer.returncode == EXIT_DONE, answer.stderr
    environment = (tmp_path / "environment").read_text().splitlines()
    expected = ["APEX_CPP_EXT=1", "APEX_CUDA_EXT=1", f"CUDA_HOME={cuda}"]
    assert {*expected, "CPATH=/mine:/headers/cudnn/include"} <= set(environment)
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:3] == ["-m", "pip", "install"]
    assert {"--no-build-isolation", "--no-deps", str(source)} <= set(arguments)
    assert answer.stdout.splitlines()[-1].endswith(f"Apex is installed for {python}, with amp_C (CUDA 13.0)")


def test_extension_that_was_built_in_vain_is_named(source: Path, tmp_path: Path) -> None:
    cuda = toolkit(tmp_path / "cuda", "13.0")
    answer = run_script(source, PYTHON=interpreter(tmp_path, "13.0", cuda, imports="others"))
    assert answer.returncode == EXIT_FAILED
    assert "amp_C was built but cannot be imported" in answer.stderr


def test_environment_without_pip_is_installed_into_with_uv(source: Path, tmp_path: Path) -> None:
    cuda = toolkit(tmp_path / "cuda", "13.0")
    python = interpreter(tmp_path, "13.0", cuda, has_pip=False)
    executable(tmp_path / "bin" / "uv", "exit 0\n")
    answer = run_script(source, "--dry-run", PYTHON=python, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert answer.returncode == EXIT_DONE, answer.stderr
    assert f"uv pip install --python {python} --no-cache" in answer.stdout


def test_dry_run_for_this_pytorch_prints_one_command_and_builds_nothing(tmp_path: Path, source: Path) -> None:
    """With the real interpreter: what it is asked for has these names in this PyTorch."""
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is built without CUDA")
    cuda = toolkit(tmp_path / "cuda", torch.version.cuda)
    answer = run_script(source, "--dry-run", PYTHON=sys.executable, CUDA_HOME=cuda)
    assert answer.returncode == EXIT_DONE, answer.stderr
    (command,) = answer.stdout.splitlines()
    assert shlex.split(command)[0] == "env"
    assert f"CUDA_HOME={cuda}" in shlex.split(command)
    assert not (source / "build").exists()


def test_command_makes_the_real_setup_build_the_extension(tmp_path: Path) -> None:
    if "APEX_SOURCE" not in os.environ:
        pytest.skip("APEX_SOURCE does not name a checkout of NVIDIA Apex")
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is built without CUDA")
    cuda = toolkit(tmp_path / "cuda", torch.version.cuda)
    source = Path(os.environ["APEX_SOURCE"]).resolve()
    show = (
        "import runpy, setuptools; setuptools.setup = "
        "lambda **given: print('built:', *(extension.name for extension in given['ext_modules'])); "
        "runpy.run_path('setup.py')"
    )
    answer = run_script(source, "--dry-run", PYTHON=sys.executable, CUDA_HOME=cuda)
    words = shlex.split(answer.stdout.splitlines()[-1])
    settings = words[: words.index(sys.executable)]
    assert words[-1] == str(source)
    answer = subprocess.run([*settings, sys.executable, "-c", show], cwd=source, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert {"apex_C", "amp_C"} <= set(answer.stdout.splitlines()[-1].split()[1:])
