"""What the rows measure on the CPU: the small network and a few pictures."""

from __future__ import annotations

import pytest

from pipeline.bench.gpu.pictures import write_pictures
from pipeline.bench.gpu.scope import Scope


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Scope:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 8, 60, 50)
    return Scope(
        str(folder),
        device="cpu",
        model="senet_nano",
        num_classes=10,
        image_size_px=32,
        batch=4,
        large_batch=8,
        precisions=("float32",),
        threads=2,
        matrix=64,
        copied_bytes=1 << 16,
        steps=4,
        plan="center64",
        compiler="eager",
        tests=("tests/networks/test_summary.py::test_summary_of_senet154_adds_up",),
    )
