from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bench.cluster import main
from pipeline.store.journal import read_journal


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def verdicts(directory: Path) -> dict[str, str]:
    return {record["subject"]: record["verdict"] for record in read_journal(directory / "findings-12.jsonl")}


def test_one_process_measures_what_needs_no_other_and_leaves_only_its_findings(tmp_path: Path) -> None:
    assert main(tmp_path) == 0
    found = verdicts(tmp_path)
    assert [found[name] for name in ("processes", "environment")] == ["ok", "ok"]
    assert [found[name] for name in ("NCCL all-reduce", "gloo all-reduce", "locks between nodes")] == ["-"] * 3
    assert {found["opening a file"], found["writing a file"]} <= {"ok", "slow"}
    assert found["Weights & Biases"] == "offline"
    assert [path.name for path in tmp_path.iterdir()] == ["findings-12.jsonl"]


def test_gpus_that_the_job_has_and_its_processes_do_not_see_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("SLURM_GPUS_PER_NODE", "8")
    main(tmp_path)
    assert verdicts(tmp_path)["GPUs"] == "missing"
