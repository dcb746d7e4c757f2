from __future__ import annotations

from pathlib import Path

import pytest

from launch.__main__ import main
from launch.gpu import advise, count_visible_gpus
from pipeline.ground.errors import UserError


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists three GPUs, the last one split in two."""
    command = tmp_path / "nvidia-smi"
    lines = [f"GPU {number}: H100 (UUID: GPU-{number})" for number in range(3)] + ["  MIG 3g.40gb Device 0:"] * 2
    command.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("0,2", 2), ("", 0), ("-1", 0), ("GPU-1", 1)])
def test_visible_gpus_are_those_the_stages_will_see(visible, count, monkeypatch):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_visible_gpus() == count


def test_a_machine_without_a_driver_has_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_visible_gpus() == 0


def test_idle_gpus_are_mentioned_and_never_taken():
    assert advise(1, 4, 16) == "4 GPUs are visible and this run uses 1; processes=4 uses them all"
    assert advise(4, 4, 16) is None
    assert advise(1, 1, 16) is None
    assert advise(3, 0, 16) is None


def test_more_processes_than_gpus_are_refused():
    message = r"resources\.processes: must be at most the 2 visible GPUs, one for each process \(given 64\)"
    with pytest.raises(UserError, match=message):
        advise(64, 2, 16)


def test_a_recipe_for_many_gpus_is_refused_where_there_are_none():
    with pytest.raises(UserError, match="64 processes are far too many for 2 CPU cores and no GPU"):
        advise(64, 0, 2)


@pytest.mark.usefixtures("nvidia_smi")
def test_a_run_that_this_machine_is_not_for_leaves_no_directory(tmp_path, capsys):
    assert main(["run", "demo", "processes=4", "--run", str(tmp_path / "run")]) == 2
    assert "must be at most the 3 visible GPUs, one for each process (given 4)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
