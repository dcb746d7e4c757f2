"""Compare a network with its recipe's claims (`model.expect`)."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.config.network import ModelConfig
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.tracing import trace_layers
from pipeline.networks.authors_table import TABLE_IMAGE_SIZE_PX, differences_from_authors
from pipeline.networks.layers import Cost, Layers
from pipeline.networks.registry import NETWORKS, MaxPool

_SHOWN_DIFFERENCES = 10


@dataclasses.dataclass(frozen=True)
class Check:
    """A claim of the recipe, with the network's actual value."""

    claim: str
    found: str
    passed: bool


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


def checked_size_px(config: ModelConfig) -> int:
    """Return the image side for which multiply-adds are counted: the recipe's claim, or the network's own."""
    claimed = None if config.expect is None else config.expect.image_size_px
    return claimed or NETWORKS[config.name].image_size_px


def check_network(model: Network, config: ModelConfig) -> tuple[Layers, list[Check]]:
    """Return the layers that an image of `checked_size_px` passes, and each claim of `model.expect`.

    The model must be on the meta device. Raises UserError listing every false claim.
    """
    layers = trace_layers(model, checked_size_px(config))
    checks = _check(model, config, layers)
    failed = [f"{check.claim}, {check.found}" for check in checks if not check.passed]
    if failed:
        raise UserError(
            "\n  ".join(["model.expect: the network is not what the recipe claims", *failed])
            + "\nif another network or number of classes is meant, write model.expect=null, or what is true of it"
        )
    return layers, checks


def _check(model: Network, config: ModelConfig, layers: Layers) -> list[Check]:
    expect = config.expect
    if expect is None:
        return []
    cost = Cost.of(layers)
    gmacs = cost.macs / 1e9
    # To 0.01, as figures of this size are given; to one percent for a network that has less than one.
    tolerance = 0.01 * min(1.0, expect.gmacs)
    checks = [
        Check(
            f"parameters: {expect.parameters:,} claimed",
            f"{cost.parameters:,} found",
            cost.parameters == expect.parameters,
        ),
        Check(
            f"gmacs: {expect.gmacs:g} claimed at {checked_size_px(config)} px",
            f"{gmacs:.4g} found",
            abs(gmacs - expect.gmacs) <= tolerance,
        ),
    ]
    if expect.layer_table:
        differences = differences_from_authors(trace_layers(model, TABLE_IMAGE_SIZE_PX))
        shown = differences[:_SHOWN_DIFFERENCES]
        if len(differences) > len(shown):
            shown.append(f"and {len(differences) - len(shown)} more")
        found = (
            "\n    ".join([f"{len(differences)} differences found", *shown]) if differences else "every layer agrees"
        )
        checks.append(Check("layer_table: the authors' claimed", found, not differences))
    return checks


def format_checks(checks: list[Check]) -> str:
    """Format the claims as lines of text, or one sentence if the recipe makes none."""
    if not checks:
        return "Nothing was checked: the recipe has no model.expect."
    return "\n".join(["Checked against model.expect:", *(f"  {check.claim}, {check.found}" for check in checks)])
