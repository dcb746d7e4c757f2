from __future__ import annotations

import datetime
import os
import socket
import threading
import types
from pathlib import Path

import pytest
import torch

from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks, read_ranks
from tests.processes import finish, fork_context


def test_ranks_that_work_apart_may_end_later_than_the_timeout(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [fork_context().Process(target=_work, args=(rank, port, tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    assert finish(processes) == [0, 0]
    assert {file.read_text() for file in tmp_path.iterdir()} == {"met"}


def test_a_task_that_sees_only_its_own_gpu_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's --gpu-bind and cgroups make it number 0 for every task of a node."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid=f"GPU-{device}"))
    assert Collective(Ranks(local_rank=3), timeout_seconds=60).device == torch.device("cuda", 0)
    assert chosen == [torch.device("cuda", 0)]


def _work(rank: int, port: int, folder: Path) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ.update(environment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # Plenty to find each other; then less than the second rank works.
    collective = Collective(read_ranks(), timeout_seconds=60)
    collective._timeout = datetime.timedelta(seconds=1)
    collective.limit(collective._control)
    with collective.apart():
        threading.Event().wait(rank * 2.0)
    assert collective.any(rank == 1)
    (folder / f"{rank}").write_text("met")
    collective.close()
