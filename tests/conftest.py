"""What all tests share: one torch thread a process, no logging to W&B, and the optional real data."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported anywhere: two cores at full OpenMP teams fight with DALI's threads and with each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images that may lie beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data folder with real images beside the checkout")
    return folder
