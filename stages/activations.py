"""Measure the gates of every squeeze-and-excitation block over the validation images, by class and channel.

Writes the arrays as `gates.npz` and their names, with figures of each block, as `gates.json`.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data.loaders import build_plan_loader
from pipeline.evaluation.expansion import expand, images_at_once
from pipeline.evaluation.gates import NEAR, BlockGates, GateSums, fixed_gates
from pipeline.evaluation.inference import evaluating
from pipeline.evaluation.loading import build_scorer
from pipeline.evaluation.metrics import error_percent, is_telling, label_ranks
from pipeline.evaluation.plan_scoring import Progress
from pipeline.ground.errors import StopRequested
from pipeline.running.context import StageContext, StageResult
from pipeline.running.trained import Trained, find_trained
from pipeline.store.file import write_bytes, write_json

ARRAYS = "gates.npz"
NAMES = "gates.json"


def run(context: StageContext) -> StageResult:
    """Pass the images through the network twice: to measure the gates, and with those of the last stage fixed."""
    trained = find_trained(context)
    model, index, collective = trained.load(context), trained.index, context.collective
    images_K = np.bincount(index.labels, minlength=len(index.classes))
    sums = GateSums(model, len(index.classes), collective.device)
    with sums.watching():
        errors = {"as trained": _pass(context, trained, model, "the gates", sums)}
    gates = sums.collect(collective, images_K)
    last = max(block.stage for block in gates.values())
    left_out = {name: block for name, block in gates.items() if block.stage == last}
    with fixed_gates(model, {name: block.mean_C for name, block in left_out.items()}):
        errors["with fixed gates"] = _pass(context, trained, model, f"without the gates of stage {last}")
    plan, blocks = context.config.evaluate.one_crop, list(gates.values())
    figures = {
        "weights_sha256": trained.weights_sha256,
        "plan": plan.name,
        "images": len(index),
        "near": NEAR,
        "classes": [
            {"folder": one.folder, "words": one.words, "images": int(images)}
            for one, images in zip(index.classes, images_K, strict=True)
            if images
        ],
        "blocks": [block.summary() for block in blocks],
        "left_out": {
            "blocks": [block.label for block in left_out.values()],
            "parameters": sum(block.parameters for block in left_out.values()),
            "parameters_of_all_blocks": sum(block.parameters for block in blocks),
            "errors": errors,
        },
    }
    if context.ranks.is_main:
        write_bytes(context.directory / ARRAYS, _packed(blocks))
        write_json(context.directory / NAMES, figures)
    metrics = {"blocks": len(blocks), "val_images": len(index)}
    return StageResult([ARRAYS, NAMES], metrics, images={"val": index.digest})


def _pass(
    context: StageContext, trained: Trained, model: nn.Module, text: str, sums: GateSums | None = None
) -> dict[str, float]:
    """Return the errors of all images in percent. Batch i goes to rank i mod world size, whatever that is."""
    config, collective, index = context.config, context.collective, trained.index
    plan, batch = config.evaluate.one_crop, config.evaluate.batch
    size, ranks = images_at_once(plan, batch), collective.ranks
    own = np.arange(ranks.rank, -(-len(index) // size), ranks.world_size)
    positions = (own[:, None] * size + np.arange(size)).ravel()
    positions = positions[positions < len(index)]
    errors = torch.zeros(2, dtype=torch.int64, device=collective.device)
    scorer = build_scorer(model, plan, trained.preprocessing, config.execution, collective.device, batch)
    crops = [planned.crop for planned in expand(plan, trained.preprocessing.resize)]
    with collective.apart(), evaluating(model), contextlib.ExitStack() as stack:
        batches: Any = ()
        if len(own):
            loader = build_plan_loader(index, positions, crops, size, config.loader, collective.device)
            batches = stack.enter_context(contextlib.closing(loader))
            progress = Progress(context.events, text, len(positions), len(index) / len(positions))
        for each in batches:
            labels = each.labels.to(collective.device, non_blocking=True)
            if sums is not None:
                sums.labels = labels
            # Rounded as evaluate's scores are, so that its errors are these.
            ranked = label_ranks(scorer.log_probabilities(each.crops).half(), labels)
            errors += torch.stack(((ranked >= 1).sum(), (ranked >= 5).sum()))
            progress.add(len(labels))
            if context.stop.is_set:
                break
    if collective.any(context.stop.is_set):
        raise StopRequested("stopped on request while measuring the gates; the same command begins again")
    counts = zip((1, 5), collective.sum(errors.tolist()), strict=True)
    return {
        f"top{k}_error_percent": error_percent(count, len(index))
        for k, count in counts
        if is_telling(k, len(index.classes))
    }


def _packed(blocks: list[BlockGates]) -> bytes:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{name: array for block in blocks for name, array in block.arrays().items()})
    return content.getvalue()
