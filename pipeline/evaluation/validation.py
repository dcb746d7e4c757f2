"""Validation during training: two errors and a loss, exact at any world size."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional
from torch import nn

from pipeline.config.crop_plan import CropPlan
from pipeline.config.schema import Config
from pipeline.data.batch import PlanBatch
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_plan_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import expand, images_at_once
from pipeline.evaluation.inference import PlanScorer, evaluating
from pipeline.evaluation.metrics import error_percent, label_ranks
from pipeline.ground.distributed import Collective


@dataclasses.dataclass(frozen=True)
class Validation:
    """Errors and loss on the validation images."""

    images: int
    loss: float
    """Mean cross-entropy, without label smoothing, of the probabilities averaged over the plan's crops."""
    top1_error_percent: float
    top5_error_percent: float


def validate(
    model: nn.Module,
    index: ImageIndex,
    plan: CropPlan,
    config: Config,
    collective: Collective,
    preprocessor: Preprocessor,
) -> Validation:
    """Evaluate `model`, the bare module and not its DDP wrapper. All ranks call it, and all get the same answer.

    The index is split into batches of train.max_micro_batch (fewer under a plan of many crops), the last smaller, and
    batch i goes to rank i mod world size. Nothing is padded, so every image counts once; a rank may have no batch at
    all. The batches do not depend on the world size, and on the CPU neither does the last bit of the answer. Afterwards
    each module is back in its own mode.
    """
    size = images_at_once(plan, config.train.max_micro_batch)
    num_batches = -(-len(index) // size)
    own = np.arange(collective.ranks.rank, num_batches, collective.ranks.world_size)
    positions = (own[:, None] * size + np.arange(size)).ravel()
    positions = positions[positions < len(index)]
    losses = torch.zeros(num_batches, dtype=torch.float64, device=collective.device)
    errors = torch.zeros(2, dtype=torch.int64, device=collective.device)
    with evaluating(model), contextlib.ExitStack() as stack:
        at_once = config.train.max_micro_batch
        scorer = PlanScorer(model, plan, config.execution, preprocessor, collective.device, at_once)
        batches: Iterable[PlanBatch] = ()
        if len(own):
            crops = [planned.crop for planned in expand(plan, config.augmentation.kernel)]
            loader = build_plan_loader(index, positions, crops, size, config.loader, collective.device)
            batches = stack.enter_context(contextlib.closing(loader))
        for number, batch in zip(own.tolist(), batches, strict=True):
            labels = batch.labels.to(collective.device, non_blocking=True)
            log_probabilities = scorer.log_probabilities(batch.crops)
            losses[number] = torch.nn.functional.nll_loss(log_probabilities.double(), labels, reduction="sum")
            ranks = label_ranks(log_probabilities, labels)
            errors += torch.stack(((ranks >= 1).sum(), (ranks >= 5).sum()))
    # One number a batch, to which all other ranks add 0: so no rounding depends on the world size.
    loss = math.fsum(collective.sum_floats(losses.tolist())) / len(index)
    top1_errors, top5_errors = collective.sum(errors.tolist())
    return Validation(len(index), loss, error_percent(top1_errors, len(index)), error_percent(top5_errors, len(index)))
