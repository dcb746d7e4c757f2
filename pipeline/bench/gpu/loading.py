"""The loader of training alone: where it decodes, with how many threads, how many images at once, how far ahead."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.bench.clock import figures_or_error, synchronise
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.images import index_folder
from pipeline.bench.measurement import cpu_seconds
from pipeline.bench.setting import bench_config
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_train_loader
from pipeline.ground.ranks import Ranks

_EPOCHS = 3
"""Of the images: in the first, the loader compares their content with the index, and is not timed."""
_USE = ["nvidia-smi", "--query-gpu=utilization.gpu,utilization.jpeg", "--format=csv,noheader,nounits", "-lms", "100"]


def measure_loading(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield images a second, CPU time and the use of the GPU for each setting of the section `loader`."""
    index = index_folder(Path(scope.images), scope.num_images, scope.batch, lambda text: None)
    for settings in _settings(scope):
        yield {**settings, **figures_or_error(lambda settings=settings: _figures(scope, index, settings))}  # type: ignore[misc]


def _settings(scope: Scope) -> list[dict[str, Any]]:
    """Return the sections: the default one, and what differs from it in one key."""
    base: dict[str, Any] = {"decode": "cpu", "threads": scope.threads}
    varied: list[dict[str, Any]] = [
        {},
        {"threads": max(1, scope.threads // 4)},
        {"decode_batch": scope.batch},
        {"prefetch_images": scope.large_batch},
    ]
    if scope.device != "cpu":
        base["decode"] = "gpu"
        varied += [{"hw_decoder_load": 0.0}, {"hw_decoder_load": 0.65}, {"fancy_upsampling": True}, {"decode": "cpu"}]
    return [{**base, **settings} for settings in varied]


def _figures(scope: Scope, index: ImageIndex, settings: dict[str, Any]) -> dict[str, Any]:
    config = bench_config(batch=scope.batch, image_size_px=scope.image_size_px, loader=settings)
    steps = len(index) // scope.batch
    loader = build_train_loader(
        index,
        config,
        Ranks(),
        scope.torch_device,
        micro_batch=scope.batch,
        first_step=0,
        last_step=_EPOCHS * steps,
    )
    with contextlib.closing(loader):
        batches = iter(loader)
        for _ in range(steps):
            next(batches)
        synchronise(scope.torch_device)
        with _gpu_use(scope) as use:
            started, cpu_before, images = time.perf_counter(), cpu_seconds(), 0
            for batch in batches:
                images += len(batch.images)
            synchronise(scope.torch_device)
            wall, cpu = time.perf_counter() - started, cpu_seconds() - cpu_before
    return {"images/s": images / wall, "CPU ms an image": 1e3 * cpu / images, **use}


@contextlib.contextmanager
def _gpu_use(scope: Scope) -> Iterator[dict[str, float]]:
    """Yield a mapping that has the mean use of the GPU, and of its JPEG decoders, once the context has ended."""
    use: dict[str, float] = {}
    if scope.device == "cpu":
        yield use
        return
    try:
        watcher = subprocess.Popen(_USE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        yield use
        return
    try:
        yield use
    finally:
        watcher.terminate()
        lines = watcher.communicate()[0].splitlines()
    samples = [line.split(", ") for line in lines]
    for name, column in (("GPU %", 0), ("JPEG decoders %", 1)):
        values = [float(sample[column]) for sample in samples if len(sample) == 2 and sample[column].isdecimal()]
        if values:
            use[name] = sum(values) / len(values)
