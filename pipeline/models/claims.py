"""Make a network without weights, and compare it with its recipe's claims (`model.expect`)."""

from __future__ import annotations

import functools

import torch

from pipeline.config.claims import Check, check_claims, checked_size_px
from pipeline.config.network import ModelConfig
from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.tracing import trace_layers
from pipeline.networks.layers import Layers
from pipeline.networks.registry import MaxPool


def meta_model(config: ModelConfig, num_classes: int, max_pool: MaxPool = "ceil") -> Network:
    """Return the network on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return create_model(
            config.name,
            num_classes,
            se=config.block,
            dropout=config.dropout,
            bn_momentum=config.bn_momentum,
            max_pool=max_pool,
            stride_in_3x3=config.stride_in_3x3,
        )


def check_network(model: Network, config: ModelConfig) -> tuple[Layers, list[Check]]:
    """Return the layers that an image of `checked_size_px` passes, and each claim of `model.expect`.

    The model must be on the meta device. Raises UserError listing every false claim.
    """
    layers_at = functools.cache(functools.partial(trace_layers, model))
    return layers_at(checked_size_px(config)), check_claims(config, layers_at)
