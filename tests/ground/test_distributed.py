from __future__ import annotations

import datetime
import os
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StartFailed
from pipeline.ground.ranks import Ranks, read_ranks
from tests.processes import finish, fork_context, free_port


def run_two_ranks(work: Callable[[Path], None], folder: Path) -> None:
    port = free_port()
    processes = [
        fork_context().Process(target=_be_rank, args=(rank, port, work, folder), daemon=True) for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert finish(processes) == [0, 0]


def test_ranks_that_work_apart_may_end_later_than_the_timeout(tmp_path: Path) -> None:
    run_two_ranks(_work_apart, tmp_path)
    assert {file.read_text() for file in tmp_path.iterdir()} == {"met"}


def test_two_tasks_that_see_the_same_gpu_are_refused(tmp_path: Path) -> None:
    run_two_ranks(_share_a_gpu, tmp_path)
    (message,) = {file.read_text() for file in tmp_path.iterdir()}
    assert message.startswith("ranks 0, 1 on ")
    assert "these share one GPU (GPU-7), and each process needs its own" in message


def test_a_task_that_sees_only_its_own_gpu_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's --gpu-bind and cgroups make it number 0 for every task of a node."""
    _show_one_gpu(monkeypatch)
    assert Collective(Ranks(local_rank=3), timeout_seconds=60).device == torch.device("cuda", 0)


def _show_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="GPU-7"))


def _be_rank(rank: int, port: int, work: Callable[[Path], None], folder: Path) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ.update(environment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    work(folder / f"{rank}")


def _share_a_gpu(file: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _show_one_gpu(monkeypatch)
        with pytest.raises(StartFailed) as refused:
            Collective(read_ranks(), timeout_seconds=60)
    file.write_text(str(refused.value))


def _work_apart(file: Path) -> None:
    # Plenty to find each other; then less than the second rank works.
    collective = Collective(read_ranks(), timeout_seconds=60)
    rank = collective.ranks.rank
    collective._timeout = datetime.timedelta(seconds=1)
    collective.limit(collective._control)
    with collective.apart():
        threading.Event().wait(rank * 2.0)
    assert collective.any(rank == 1)
    file.write_text("met")
    collective.close()


def test_an_answer_comes_one_call_later_and_alike_on_all_ranks_without_waiting(tmp_path: Path) -> None:
    run_two_ranks(_ask, tmp_path)
    answers = {(tmp_path / name).read_text() for name in ("0", "1")}
    assert answers == {"[False, False, True, False]"}
    assert Collective(Ranks(), timeout_seconds=60).any_when_last_asked(True), "one process has nobody to wait for"


def _ask(file: Path) -> None:
    collective = Collective(read_ranks(), timeout_seconds=60)
    rank = collective.ranks.rank
    asked = file.with_name("rank 0 has asked once, before rank 1 has")
    if rank == 1:
        while not asked.exists():
            threading.Event().wait(0.01)
    answers = [collective.any_when_last_asked(False)]
    if rank == 0:
        asked.touch()
    answers += [collective.any_when_last_asked(rank == 1 and call == 1) for call in (1, 2, 3)]
    file.write_text(str(answers))
    collective.close()
