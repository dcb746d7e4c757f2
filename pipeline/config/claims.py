"""Compare the layers of a network with its recipe's claims (`model.expect`). Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pipeline.config.network import ModelConfig
from pipeline.ground.errors import UserError
from pipeline.networks.authors_table import TABLE_IMAGE_SIZE_PX, differences_from_authors
from pipeline.networks.layers import Cost, Layers
from pipeline.networks.registry import NETWORKS

_SHOWN_DIFFERENCES = 10


@dataclasses.dataclass(frozen=True)
class Check:
    """A claim of the recipe, with the network's actual value."""

    claim: str
    found: str
    passed: bool


def checked_size_px(config: ModelConfig) -> int:
    """Return the image side for which multiply-adds are counted: the recipe's claim, or the network's own."""
    claimed = None if config.expect is None else config.expect.image_size_px
    return claimed or NETWORKS[config.name].image_size_px


def check_claims(config: ModelConfig, layers_at: Callable[[int], Layers]) -> list[Check]:
    """Return each claim of `model.expect`, compared with the network's layers for images of a size.

    Raises UserError listing every false claim.
    """
    checks = _check(config, layers_at)
    failed = [f"{check.claim}, {check.found}" for check in checks if not check.passed]
    if failed:
        raise UserError(
            "\n  ".join(["model.expect: the network is not what the recipe claims", *failed])
            + "\nif another network or number of classes is meant, write model.expect=null, or what is true of it"
        )
    return checks


def _check(config: ModelConfig, layers_at: Callable[[int], Layers]) -> list[Check]:
    expect = config.expect
    if expect is None:
        return []
    cost = Cost.of(layers_at(checked_size_px(config)))
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
        differences = differences_from_authors(layers_at(TABLE_IMAGE_SIZE_PX))
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
