"""The probe behind `launch tune`: the recipe's network and batch on random images, in every way to train in turn.

`python -m pipeline.bench.autotune` reads a resolved recipe as JSON from stdin. It prints JSON, a line each: first the
setting and the ways to try, then each way's finding as soon as it is known, so that the reader can stop it at any time
and keep the findings so far.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import platform
import sys
from collections.abc import Iterator

import torch

from pipeline.bench.advice import Finding, Identity
from pipeline.bench.cell import Cell, all_cells
from pipeline.bench.clock import figures_or_error, time_work
from pipeline.bench.step import our_step
from pipeline.bench.training_step import Task, forget_compiled
from pipeline.config.schema import Config
from pipeline.ground.stop import stop_with_parent
from pipeline.networks.layers import Cost, layer_table
from pipeline.training.batching import split_batch

_CPU_MACS = 25e9
"""Multiply-adds of the largest forward pass to try on a CPU: a second or two a step."""


def main() -> None:
    """Read the recipe and print the findings."""
    stop_with_parent()
    config = Config.model_validate(json.load(sys.stdin))
    task = probed_task(config)
    cells = probed_cells(config, task.device)
    identity = identify(config, task)
    _print({"identity": dataclasses.asdict(identity), "cells": [dataclasses.asdict(cell) for cell in cells]})
    for finding in probe(task, cells):
        _print(dataclasses.asdict(finding))


def probed_task(config: Config) -> Task:
    """Return the recipe's own training step, with fewer images for a large network on a CPU."""
    on_gpu = torch.cuda.is_available()
    batch = split_batch(config.train.global_batch, config.resources.processes, config.train.max_micro_batch).micro_batch
    size = config.train.image_size_px
    if not on_gpu:
        macs = Cost.of(layer_table(config.model.name, config.model.reckoned_classes, size)).macs
        batch = max(1, min(batch, int(_CPU_MACS / macs)))
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Task(config.model.name, config.model.reckoned_classes, size, batch, device)


def probed_cells(config: Config, device: torch.device) -> list[Cell]:
    """Return all layouts, compiled or not, in the recipe's type and, on a GPU, in both 16-bit types.

    On a GPU the recipe's type with CUDA graphs is among them too, if its engine supports them.
    """
    if device.type != "cuda":
        return all_cells((config.execution.precision,))
    own = config.execution.precision
    has_graphs = config.native is not None and not config.execution.sync_bn
    return all_cells(tuple(dict.fromkeys((own, "bfloat16", "float16"))), with_graphs=(own,) if has_graphs else ())


def identify(config: Config, task: Task) -> Identity:
    """Return the identity of the findings."""
    on_gpu = task.device.type == "cuda"
    return Identity(
        device=torch.cuda.get_device_name(task.device) if on_gpu else f"CPU {platform.machine()}",
        torch=torch.__version__,
        cudnn=torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        model=task.model,
        image_size_px=task.image_size_px,
        batch=task.batch,
        precision=config.execution.precision,
    )


def probe(task: Task, cells: list[Cell]) -> Iterator[Finding]:
    """Measure each way; a failure, as for lack of memory, is a finding with the reason."""
    if task.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    for cell in cells:
        gc.collect()  # a way with CUDA graphs holds its memory until it is garbage-collected
        if cell.compile:
            forget_compiled()
        figures = figures_or_error(
            lambda cell=cell: {"seconds": time_work(our_step(task, cell), task.device).median}  # type: ignore[misc]
        )
        if "error" in figures:
            yield Finding(cell, None, figures["error"])
        else:
            yield Finding(cell, round(task.batch / figures["seconds"], 2))


def _print(fields: dict[str, object]) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
