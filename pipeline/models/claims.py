"""Comparing a network with what its recipe claims of it (`model.expect`)."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.config.network import ModelConfig
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.inspection import differences_from_authors, observe_layers
from pipeline.models.senet import SENet

_SMALLEST_IMAGE_PX = 3
_SHOWN_DIFFERENCES = 10


@dataclasses.dataclass(frozen=True)
class Check:
    """A claim of the recipe and what the network says to it."""

    claim: str
    found: str
    passed: bool


def meta_model(config: ModelConfig) -> SENet:
    """The network on the meta device, where it has shapes and no memory."""
    with torch.device("meta"):
        return create_model(config.name, config.num_classes, dropout=config.dropout, bn_momentum=config.bn_momentum)


def check_network(model: SENet, config: Config) -> tuple[int, int, list[Check]]:
    """Parameters, multiply-adds, and what the network says to each claim of model.expect.

    UserError with every claim that is false.
    """
    parameters, macs = _measure(model, config)
    checks = _check(model, config, parameters, macs)
    failed = [f"{check.claim}, {check.found}" for check in checks if not check.passed]
    if failed:
        raise UserError("\n  ".join(["model.expect: the network is not what the recipe claims", *failed]))
    return parameters, macs, checks


def _measure(model: SENet, config: Config) -> tuple[int, int]:
    """Parameters and multiply-adds of the network itself."""
    size = config.train.image_size_px
    if size < _SMALLEST_IMAGE_PX:
        raise UserError(f"train.image_size_px: must be at least {_SMALLEST_IMAGE_PX} (given {size})")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, sum(layer.macs for layer in observe_layers(model, size).values())


def _check(model: SENet, config: Config, parameters: int, macs: int) -> list[Check]:
    """Every claim of model.expect; none where the recipe claims nothing."""
    expect = config.model.expect
    if expect is None:
        return []
    gmacs = macs / 1e9
    # To 0.01, as figures of this size are given; to one percent for a network that has less than one.
    tolerance = 0.01 * min(1.0, expect.gmacs)
    checks = [
        Check(f"parameters: {expect.parameters:,} claimed", f"{parameters:,} found", parameters == expect.parameters),
        Check(
            f"gmacs: {expect.gmacs:g} claimed at {config.train.image_size_px} px",
            f"{gmacs:.4g} found",
            abs(gmacs - expect.gmacs) <= tolerance,
        ),
    ]
    if expect.layer_table:
        differences = differences_from_authors(model)
        shown = differences[:_SHOWN_DIFFERENCES]
        if len(differences) > len(shown):
            shown.append(f"and {len(differences) - len(shown)} more")
        found = (
            "\n    ".join([f"{len(differences)} differences found", *shown]) if differences else "every layer agrees"
        )
        checks.append(Check("layer_table: the authors' claimed", found, not differences))
    return checks


def format_checks(checks: list[Check]) -> str:
    """The claims as lines of text, or a sentence if the recipe claims nothing."""
    if not checks:
        return "Nothing was checked: the recipe has no model.expect."
    return "\n".join(["Checked against model.expect:", *(f"  {check.claim}, {check.found}" for check in checks)])
