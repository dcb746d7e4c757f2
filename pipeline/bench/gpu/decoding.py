"""JPEGs decoded on the GPU against the same decoded on the CPU, with fancy upsampling of chroma and without."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from pipeline.bench.gpu.scope import Scope
from pipeline.config.operations import LoaderConfig
from pipeline.data.dali_pipeline import decode_images

_BATCH = 64


def measure_decoding(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield, for either way of upsampling, the differences of all bytes (mean, 99th percentile, worst) and the speed.

    The CPU's decoder is libjpeg-turbo's, with fancy upsampling.
    """
    files = scope.image_files()
    batch = min(_BATCH, len(files))
    files = files[: len(files) // batch * batch]
    for is_fancy in (False, True):
        pipelines = [_pipeline(files, batch, on_gpu, is_fancy, scope) for on_gpu in (False, scope.device != "cpu")]
        differences = np.zeros(256, dtype=np.int64)
        for _ in range(0, len(files), batch):
            (on_cpu,), (on_device,) = (pipeline.run() for pipeline in pipelines)
            for expected, found in zip(_arrays(on_cpu), _arrays(on_device), strict=True):
                distance = np.abs(expected.astype(np.int16) - found.astype(np.int16))
                differences += np.bincount(distance.ravel(), minlength=256)
        speed = _speed(pipelines[1], len(files), batch)
        yield {"fancy upsampling": is_fancy, **_summary(differences), "images/s": speed}


def _pipeline(files: list[Path], batch: int, on_gpu: bool, is_fancy: bool, scope: Scope) -> Any:
    gpu = scope.torch_device.index or 0 if on_gpu else None
    pipeline = Pipeline(batch, scope.threads, gpu, exec_dynamic=True)
    with pipeline:
        encoded, _ = fn.readers.file(files=[str(file) for file in files])
        pipeline.set_outputs(decode_images(encoded, LoaderConfig(fancy_upsampling=is_fancy), gpu))
    pipeline.build()
    return pipeline


def _arrays(images: Any) -> list[npt.NDArray[np.uint8]]:
    on_cpu = images.as_cpu()
    return [np.asarray(on_cpu[row]) for row in range(len(on_cpu))]


def _summary(differences: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return mean, 99th percentile and worst of differences, of which each place counts those of its size."""
    shares = differences.cumsum() / differences.sum()
    return {
        "mean difference": float((differences * np.arange(256)).sum() / differences.sum()),
        "99th percentile": float(np.searchsorted(shares, 0.99)),
        "worst": float(differences.nonzero()[0].max()),
    }


def _speed(pipeline: Any, count: int, batch: int) -> float:
    started = time.perf_counter()
    for _ in range(0, count, batch):
        pipeline.run()
    return count / (time.perf_counter() - started)
