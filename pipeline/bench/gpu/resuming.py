"""Real training, stopped in its middle and resumed in a new process: are the end weights those without a stop?"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bench.gpu.scope import Scope
from pipeline.bench.images import index_folder
from pipeline.bench.setting import bench_config
from pipeline.config.crop_plan import CropGroup, CropPlan
from pipeline.engines import create_engine
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.models import create_model
from pipeline.tracking.events import EventLog
from pipeline.training.batching import split_batch
from pipeline.training.checkpoint import CheckpointStore, read_checkpoint, verify_checkpoint
from pipeline.training.checkpoint_seal import step_name
from pipeline.training.trainer import Phase, Trainer


def measure_resuming(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield whether weights and momentum are the same, bit for bit, with cuDNN's choice of kernels fixed and free."""
    for is_fixed in (True, False):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            whole, resumed = Path(name) / "whole", Path(name) / "resumed"
            seconds = _in_new_process(scope, whole, None, is_fixed)
            _in_new_process(scope, resumed, whole / step_name(scope.steps // 2), is_fixed)
            ends = [_tensors(folder / step_name(scope.steps)) for folder in (whole, resumed)]
        differing = [key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])]
        apart = sum(float((ends[0][key].double() - ends[1][key].double()).square().sum()) for key in ends[0]) ** 0.5
        length = sum(float(tensor.double().square().sum()) for tensor in ends[0].values()) ** 0.5
        yield {
            "cuDNN's choice fixed": is_fixed,
            "steps": scope.steps,
            "bit-identical": not differing,
            "tensors that differ": len(differing),
            "distance": apart / length,
            "images/s, start included": scope.steps * scope.batch / seconds,
        }


def _in_new_process(scope: Scope, checkpoints: Path, start: Path | None, is_fixed: bool) -> float:
    """Train in a process of its own, since a process keeps the kernels that it has chosen. Returns its seconds."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(train, scope, checkpoints, start, is_fixed).result()


def train(scope: Scope, checkpoints: Path, start: Path | None, is_fixed: bool) -> float:
    """Train to the last step, from the beginning or a checkpoint; saves in the middle and at the end.

    Returns the seconds from the first step to the last.
    """
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = is_fixed, not is_fixed
    trainer = _trainer(scope, checkpoints, start)
    started = time.perf_counter()
    trainer.run()
    return time.perf_counter() - started


def _trainer(scope: Scope, checkpoints: Path, start: Path | None) -> Trainer:
    index = index_folder(Path(scope.images), scope.num_images, scope.batch, lambda text: None)
    size, never = scope.image_size_px, 10**6
    plan = CropPlan(name="whole", crops=(CropGroup(resize_px=size, crop_px=size),))
    config = bench_config(
        model=scope.model,
        num_classes=scope.num_classes,
        batch=scope.batch,
        image_size_px=size,
        threads=scope.threads,
        execution={"precision": scope.precisions[0]},
        optim={"lr": 0.01},
        train={"epochs": never, "validate_every_epochs": never, "validation": plan.model_dump()},
        checkpoint={"every_epochs": never, "every_steps": scope.steps // 2, "keep_last": 2},
    )
    state = None if start is None else read_checkpoint(start)
    model = create_model(scope.model, scope.num_classes, seed=config.seed)
    if state is not None:
        model.load_state_dict(dict(state.model))
    collective = Collective(Ranks(), timeout_seconds=60)
    engine = create_engine(model, config, collective)
    trainer = Trainer(
        config,
        index,
        index.take(np.arange(scope.batch)),
        Phase(0, scope.steps),
        split_batch(scope.batch, 1, scope.batch),
        engine,
        collective,
        CheckpointStore(checkpoints, keep_last=2, keep_best=False),
        EventLog(None),
        StopFlag(),
    )
    trainer.warm_up()
    if state is not None and start is not None:
        engine.load_state_dict(state.optimizer)
        trainer.resume(state, start)
        trainer.continue_schedule(state)
    return trainer


def _tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return weights, statistics and momentum of a checkpoint."""
    verify_checkpoint(checkpoint)
    state = read_checkpoint(checkpoint)
    return {**state.model, **{f"momentum of {name}": tensor for name, tensor in state.optimizer.tensors.items()}}
