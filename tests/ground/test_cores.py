from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ground.cores import count_cores
from tests.conftest import REPOSITORY

COUNT = "from pipeline.ground.cores import count_cores; print(count_cores())"
V1 = Path("/sys/fs/cgroup/cpu")


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of version 1, below the one of this process."""
    paths = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    path = next((path for _, controllers, path in paths if "cpu" in controllers.split(",")), None)
    if path is None or not (V1 / "cpu.cfs_quota_us").exists() or not os.access(V1, os.W_OK):
        pytest.skip("this machine has no cpu controller of version 1, or it is root's")
    folder = V1 / path.lstrip("/") / f"test-{uuid.uuid4()}"
    folder.mkdir()
    yield folder
    folder.rmdir()


@pytest.mark.parametrize(("below", "quota"), [("", 100_000), ("", 50_000), ("below", 50_000)])
def test_a_quota_of_the_kernel_s_is_counted(cgroup: Path, below: str, quota: int) -> None:
    (cgroup / "cpu.cfs_quota_us").write_text(str(quota))
    inner = cgroup / below
    inner.mkdir(exist_ok=True)
    try:
        words = ["sh", "-c", f'echo $$ > {inner}/cgroup.procs && exec "$@"', "sh", sys.executable, "-c", COUNT]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("1\n", "")
    finally:
        if below:
            inner.rmdir()


def tree(root: Path, memberships: str, files: dict[str, str]) -> Path:
    """Write a machine's files as a process sees them."""
    for name, text in {"proc/self/cgroup": memberships, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"job/cpu.max": "400000 100000"}, 4),
        ({"job/cpu.max": "350000 100000"}, 4),
        ({"job/cpu.max": "10000 100000"}, 1),
        ({"job/cpu.max": "max 100000"}, 8),
        ({"job/cpu.max": "1600000 100000"}, 8),
        ({"job/step/cpu.max": "max 100000", "job/cpu.max": "300000 100000"}, 3),
        ({"job/step/cpu.max": "200000 100000", "job/cpu.max": "300000 100000"}, 2),
        ({"job/cpu.weight": "100"}, 8),
        ({"cpu.max": "400000 100000"}, 4),
    ],
)
def test_quotas_of_version_2_are_counted_at_every_level(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert count_cores(tree(tmp_path, "0::/job/step", files)) == cores


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_container_sees_its_own_quota_at_the_top(controllers: str, tmp_path: Path) -> None:
    top = "sys/fs/cgroup/cpu"
    files = {f"{top}/cpu.cfs_quota_us": "400000", f"{top}/cpu.cfs_period_us": "100000"}
    assert count_cores(tree(tmp_path, f"5:{controllers}:/docker/0123abcd\n4:cpuset:/\n0::/", files)) == 4


def test_without_cgroups_the_affinity_is_counted(tmp_path: Path) -> None:
    assert count_cores(tmp_path) == 8
