"""Compare a network with its recipe's claims (`model.expect`)."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.config.network import ModelConfig
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.inspection import differences_from_authors, observe_layers
from pipeline.models.senet import SENet
from pipeline.networks.spec import SPECS

_SHOWN_DIFFERENCES = 10


@dataclasses.dataclass(frozen=True)
class Check:
    """A claim of the recipe, with the network's actual value."""

    claim: str
    found: str
    passed: bool


def meta_model(config: ModelConfig, num_classes: int) -> SENet:
    """Return the network on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return create_model(config.name, num_classes, dropout=config.dropout, bn_momentum=config.bn_momentum)


def checked_size_px(config: ModelConfig) -> int:
    """Return the image side for which multiply-adds are counted: the recipe's claim, or the network's own."""
    claimed = None if config.expect is None else config.expect.image_size_px
    return claimed or SPECS[config.name].image_size_px


def check_network(model: SENet, config: ModelConfig) -> tuple[int, int, list[Check]]:
    """Return parameters, multiply-adds for an image of `checked_size_px`, and each claim of `model.expect`.

    Raises UserError listing every false claim.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = sum(layer.macs for layer in observe_layers(model, checked_size_px(config)).values())
    checks = _check(model, config, parameters, macs)
    failed = [f"{check.claim}, {check.found}" for check in checks if not check.passed]
    if failed:
        raise UserError(
            "\n  ".join(["model.expect: the network is not what the recipe claims", *failed])
            + "\nif another network or number of classes is meant, write model.expect=null, or what is true of it"
        )
    return parameters, macs, checks


def _check(model: SENet, config: ModelConfig, parameters: int, macs: int) -> list[Check]:
    expect = config.expect
    if expect is None:
        return []
    gmacs = macs / 1e9
    # To 0.01, as figures of this size are given; to one percent for a network that has less than one.
    tolerance = 0.01 * min(1.0, expect.gmacs)
    checks = [
        Check(f"parameters: {expect.parameters:,} claimed", f"{parameters:,} found", parameters == expect.parameters),
        Check(
            f"gmacs: {expect.gmacs:g} claimed at {checked_size_px(config)} px",
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
    """Format the claims as lines of text, or one sentence if the recipe makes none."""
    if not checks:
        return "Nothing was checked: the recipe has no model.expect."
    return "\n".join(["Checked against model.expect:", *(f"  {check.claim}, {check.found}" for check in checks)])
