"""The network of a weight file, ready to score images; the same for an evaluation and for single predictions."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import nn

from pipeline.config.crop_plan import CropPlan
from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.network import ModelConfig
from pipeline.data.normalisation import Preprocessor
from pipeline.data.preprocessing import Preprocessing
from pipeline.evaluation.inference import DTYPES, Network, PlanScorer
from pipeline.ground.errors import UserError
from pipeline.models import network as networks
from pipeline.models.batch_norm import fold_batch_norms
from pipeline.models.claims import meta_model
from pipeline.models.weights import load_tensors, read_weights, require_finite
from pipeline.store.weight_header import read_metadata


def load_network(
    network: ModelConfig,
    num_classes: int,
    weights: Path,
    preprocessing: Preprocessing,
    execution: ExecutionConfig,
    device: torch.device,
    *,
    is_checked: bool = True,
) -> networks.Network:
    """Return the network with its batch norms folded.

    Raises UserError if the weights are another network's or, where `is_checked`, not finite.
    """
    metadata = read_metadata(weights)
    if "model" in metadata:
        theirs = ModelConfig.described(metadata, num_classes, str(weights))
        if overrides := network.overrides_to(theirs):
            raise UserError(
                f"{weights}: these are weights of {theirs.title}, and the recipe's network is {network.title}; add "
                f"{' '.join(map(shlex.quote, overrides))}"
            )
    model = meta_model(network, num_classes, preprocessing.max_pool)
    tensors = read_weights(weights)
    load_tensors(model, tensors, str(weights))
    if is_checked:
        require_finite(tensors, str(weights))
    layout = torch.channels_last if execution.channels_last else torch.contiguous_format
    folded = fold_batch_norms(model)  # on the CPU, so that the weights are the same on every device
    for module in folded.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # Once to what autocast would convert them to in every batch.
            module.to(DTYPES[execution.precision])
    return folded.to(memory_format=layout).to(device)


def build_scorer(
    model: nn.Module,
    plan: CropPlan,
    preprocessing: Preprocessing,
    execution: ExecutionConfig,
    device: torch.device,
    batch: int,
    compiled: Network | None = None,
) -> PlanScorer:
    """Return the scorer of a plan, see `PlanScorer`."""
    if device.type == "cuda":
        # Whole images come in hundreds of sizes, and finding the fastest kernels for each would not pay.
        torch.backends.cudnn.benchmark = all(group.dense is None for group in plan.crops)
    pixels = InputConfig(mean=preprocessing.mean, std=preprocessing.std)
    preprocessor = Preprocessor(pixels, AugmentationConfig(), device, execution.channels_last)
    return PlanScorer(model, plan, execution, preprocessor, device, batch, compiled)
