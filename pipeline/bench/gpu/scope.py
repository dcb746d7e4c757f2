"""What the rows measure: networks, sizes and images. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bench.cell import Cell
from pipeline.ground.cores import count_cores

if TYPE_CHECKING:
    import torch

    from pipeline.bench.training_step import Task

_TESTS = (
    "tests/gpu/test_trainer_on_gpu.py::test_no_step_makes_the_host_wait_for_the_gpu[bfloat16-gpu]",
    "tests/gpu/test_cuda_graphs_on_gpu.py::test_ten_steps_with_graphs_are_those_without[bfloat16-nhwc-eager-alone]",
    "tests/gpu/test_decoding_on_gpu.py::test_training_crops_on_the_gpu_show_what_the_reference_shows",
)


@dataclasses.dataclass(frozen=True)
class Scope:
    """Plain values, to be handed to a row's process; the defaults are the contest's network on the current GPU."""

    images: str
    """Folder of JPEG files."""
    device: str = "cuda"
    model: str = "senet154"
    num_classes: int = 1000
    image_size_px: int = 224
    batch: int = 32
    """Images of a micro-batch in the recipes."""
    large_batch: int = 128
    precisions: tuple[str, ...] = ("bfloat16", "float16")
    num_images: int = 512
    """Images that are read, at most."""
    threads: int = dataclasses.field(default_factory=count_cores)
    matrix: int = 8192
    """Side of the matrices of the largest product."""
    copied_bytes: int = 1 << 29
    steps: int = 60
    """Steps of the training that is stopped and resumed in its middle."""
    plan: str = "10crop"
    compiler: str = "inductor"
    tests: tuple[str, ...] = _TESTS
    best: Mapping[str, Any] | None = None
    """Cell and batch of the fastest step of an earlier row."""

    @property
    def torch_device(self) -> torch.device:
        """Return the device."""
        import torch

        return torch.device(self.device)

    @property
    def fastest(self) -> tuple[Cell, int]:
        """Return cell and batch of the fastest step so far; of the recipes before any was measured."""
        if self.best is None:
            return Cell(self.precisions[0], channels_last=True, compile=False), self.batch
        return Cell(**self.best["cell"]), self.best["batch"]

    def task(self, batch: int) -> Task:
        """Return the training task of this many images a step."""
        from pipeline.bench.training_step import Task

        return Task(self.model, self.num_classes, self.image_size_px, batch, self.torch_device)

    def image_files(self) -> list[Path]:
        """Return the images, sorted by name."""
        suffixes = {".jpg", ".jpeg"}
        found = (path for path in Path(self.images).rglob("*") if path.suffix.lower() in suffixes)
        return sorted(found)[: self.num_images]
