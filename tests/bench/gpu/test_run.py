"""The rows of `bench gpu` as processes: limits, outcomes, and what they leave."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bench.gpu.rows import FULL_MINUTES, ROWS, Row, run_row
from pipeline.bench.gpu.run import measure_gpu, measure_rows
from pipeline.bench.gpu.scope import Scope
from pipeline.ground.errors import UserError
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def stand_in(monkeypatch: pytest.MonkeyPatch, **codes: str) -> None:
    """Rows of these names, each of them a process that runs this code of Python's."""
    for name in codes:
        monkeypatch.setitem(ROWS, name, Row(name, "unused", "unused", 30))
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        name = command[-1]
        return popen([sys.executable, "-S", "-c", codes[name]] if name in codes else command, **options)

    monkeypatch.setattr(subprocess, "Popen", start)


def test_rows_are_processes_and_leave_a_table_each(
    toy: Scope, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert measure_rows(toy, tmp_path / "out", 600, ("rates", "zero")) == 0
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [row["outcome"] for row in record["rows"].values()] == ["done", "done"]
    assert [row["engine"] for row in record["rows"]["zero"]["figures"]] == ["native", "deepspeed, ZeRO 1"]
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert f"torch {record['machine']['packages']['torch']}" in text
    assert "| peaks and transfers | done |" in text
    assert "| rate | TFLOP/s | GB/s | batch | images/s |" in text
    files = list((tmp_path / "out").iterdir())
    assert len(files) <= 8
    assert all(file.stat().st_size < 16 * 2**20 for file in files)
    assert "peaks and transfers: done" in capfd.readouterr().out


def test_each_outcome_is_told_and_decides_the_exit_code(
    toy: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = "import json, sys; print(json.dumps({'figures': {'n': 1}}), flush=True); "
    stand_in(
        monkeypatch,
        whole=figure,
        lacking=figure + "print(json.dumps({'lacks': 'nvidia.dali'}))",
        partly="import json; print(json.dumps({'figures': {'error': 'out of memory'}}))",
        wrong=figure + "print(json.dumps({'error': 'ValueError: no'})); print('why', file=sys.stderr); sys.exit(1)",
        crashed=figure + "import os; os.kill(os.getpid(), 11)",
    )
    expected = {
        "whole": ("done", 0),
        "lacking": ("lacks nvidia.dali", 0),
        "partly": ("failed in part: out of memory", 1),
        "wrong": ("failed: ValueError: no", 1),
        "crashed": ("failed: the process ended with -11", 1),
    }
    for name, (outcome, code) in expected.items():
        assert measure_rows(toy, tmp_path, 600, (name,)) == code
        row = json.loads((tmp_path / "gpu.json").read_text())["rows"][name]
        assert row["outcome"] == outcome
        assert len(row["figures"]) == 1
        assert ("why" in row.get("printed", "")) == (name == "wrong")


def test_a_row_that_hangs_ends_at_its_limit_with_what_it_has_and_the_next_one_runs(
    toy: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = "import signal, subprocess; child = subprocess.Popen(['sleep', '1000']); "
    hangs += 'print(\'{"figures": {"child": %d}}\' % child.pid, flush=True); signal.pause()'
    stand_in(monkeypatch, hanging=hangs, next="print('{\"figures\": {}}')")
    monkeypatch.setattr("pipeline.bench.gpu.run._LEAST_SECONDS", 1)
    assert measure_rows(toy, tmp_path, 60 * FULL_MINUTES / 10, ("hanging", "next")) == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows["hanging"]["outcome"] == "cut off at its limit of 3 s"
    assert rows["next"]["outcome"] == "done"
    status = Path(f"/proc/{rows['hanging']['figures'][0]['child']}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_row_for_which_no_time_is_left_is_not_begun_and_said_to_be_missing(toy: Scope, tmp_path: Path) -> None:
    assert measure_rows(toy, tmp_path, 1, ("rates",)) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"]["rates"]["outcome"] == "no time left"


def test_what_a_row_lacks_is_named_unless_it_is_ours(toy: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delitem(sys.modules, "pipeline.bench.gpu.decoding", raising=False)
    assert run_row(ROWS["decoding"], toy, shown.append) == 0
    assert shown == [{"lacks": "nvidia.dali"}]
    with pytest.raises(ModuleNotFoundError):
        run_row(Row("", "nothing", "", 1), toy, shown.append)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gpu: measures a CUDA device, and this machine shows none"):
        measure_gpu(tmp_path / "gpu", 1, None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_for_what_it_leaves(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out: .*/file is no folder; name one"):
        measure_gpu(tmp_path / "file", 1, None)


def test_with_torch_and_timm_alone_the_other_rows_are_named_by_what_they_lack(toy: Scope) -> None:
    """Those that need more say so; torch's own rows have their figures."""
    code = f"""
import sys
for name in ("pydantic", "nvidia.dali", "wandb", "rich", "ruamel", "safetensors", "sklearn", "deepspeed", "pytest"):
    sys.modules[name] = None
from pipeline.bench.gpu import run
from pipeline.bench.gpu.rows import ROWS
from pipeline.bench.gpu.scope import Scope
for name, row in ROWS.items():
    try:
        next(row.measure(Scope(**{dataclasses.asdict(toy)!r})))
    except ModuleNotFoundError as error:
        print(name, error.name)
    else:
        print(name, "measured")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert dict(line.split() for line in done.stdout.splitlines()) == {
        "rates": "measured",
        "decoding": "nvidia.dali",
        "loading": "pydantic",
        "recipe": "pydantic",
        "layouts": "measured",
        "kernels": "measured",
        "convolutions": "measured",
        "resuming": "pydantic",
        "tests": "pytest",
        "compiled": "measured",
        "scoring": "pydantic",
        "saving": "pydantic",
        "zero": "pydantic",
    }
