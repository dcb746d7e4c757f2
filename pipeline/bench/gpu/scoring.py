"""Evaluation: a crop plan over real images, and how often the host waits for the device."""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.bench.clock import synchronise
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.images import index_folder
from pipeline.bench.setting import bench_config
from pipeline.config.crop_plan import plan_of
from pipeline.config.schema import Config
from pipeline.data.loaders import build_plan_loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.evaluation.expansion import count_crops, expand, images_at_once
from pipeline.evaluation.inference import evaluating
from pipeline.evaluation.loading import build_scorer, load_network
from pipeline.models import create_model
from pipeline.models.weights import save_weights


def measure_scoring(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the speed of a second pass, and its waits for the device: those of the network alone, and all."""
    device, plan = scope.torch_device, plan_of(scope.plan)
    config = bench_config(
        model=scope.model,
        num_classes=scope.num_classes,
        threads=scope.threads,
        execution={"precision": scope.precisions[0]},
    )
    preprocessing = Preprocessing(config.input.mean, config.input.std, "bilinear_antialias")
    network = _network(config, preprocessing, device)
    scorer = build_scorer(network, plan, preprocessing, config.execution, device, scope.large_batch)
    index = index_folder(Path(scope.images), scope.num_images, min(scope.batch, scope.num_images), lambda text: None)
    crops = [seen.crop for seen in expand(plan)]
    positions = np.arange(len(index), dtype=np.int64)
    loader = build_plan_loader(index, positions, crops, images_at_once(plan, scope.large_batch), config.loader, device)
    with contextlib.closing(loader), evaluating(network):
        for batch in loader:
            scorer.log_probabilities(batch.crops)
        synchronise(device)
        waits, started = 0, time.perf_counter()
        with _waits(device) as all_waits:
            for batch in loader:
                before = len(all_waits)
                scorer.log_probabilities(batch.crops)
                waits += len(all_waits) - before
        synchronise(device)
        seconds = time.perf_counter() - started
    yield {
        "plan": plan.name,
        "crops": count_crops(plan),
        "images": len(index),
        "images/s": len(index) / seconds,
        "waits of the network": waits,
        "waits": len(all_waits),
    }


def _network(config: Config, preprocessing: Preprocessing, device: torch.device) -> nn.Module:
    """Return the network as the stage loads it, from a weight file."""
    classes = config.model.reckoned_classes
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        weights = Path(folder) / "weights.safetensors"
        save_weights(weights, create_model(config.model.name, classes).state_dict(), {})
        return load_network(config.model, classes, weights, preprocessing, config.execution, device)


@contextlib.contextmanager
def _waits(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """Yield a list that gets an entry whenever the host waits for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message="called a synchronizing CUDA operation")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
