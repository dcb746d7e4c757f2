"""What all tests share: one torch thread a process, no logging to W&B, and the optional real data."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported anywhere: two cores at full OpenMP teams fight with DALI's threads and with each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"

import pytest

REPOSITORY = Path(__file__).parents[1]


DATA = "SENET154_TEST_DATA"
"""Environment variable with the folder of the optional real data: ImageNet files and the contest's tables."""
_PROCESSES = {
    "subprocess",
    "multiprocessing",
    "start_stage",
    "run_stage_to_end",
    "fork_context",
    "find_chromium",
    "JobResults",
}
"""A module of tests that has one of these names starts processes; `make check` leaves its tests out."""


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """A stage that runs inside the test process takes its signals."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the optional real data."""
    folder = os.environ.get(DATA)
    if not folder:
        pytest.skip(f"{DATA} does not name a folder with ImageNet files and the contest's tables")
    assert Path(folder).is_dir(), f"{DATA}: {folder} is no folder"
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that start processes."""
    for item in items:
        module = item.getparent(pytest.Module)
        if module is not None and _PROCESSES & vars(module.obj).keys():
            item.add_marker("processes")
