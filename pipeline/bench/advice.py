"""Findings of a probe of a device, cached for the next call, and the advice for the user. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bench.cell import Cell
from pipeline.store.file import naming, write_json

_NOTICEABLE = 1.03
"""Smaller ratios count as noise."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything that the fastest way to train depends on."""

    device: str
    torch: str
    cudnn: int | None
    model: str
    image_size_px: int
    batch: int
    precision: str

    def cache_file(self) -> Path:
        """Path of the findings for this setting, below the user's cache folder."""
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return caches / "senet154" / "autotune" / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The measured speed of one way to train."""

    cell: Cell
    images_per_second: float | None
    """None if it was not measured."""
    problem: str | None = None
    """Reason why it was not measured."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """The findings for all ways of one setting, with the date."""

    identity: Identity
    date: str
    findings: tuple[Finding, ...]

    def speed(self, cell: Cell) -> float | None:
        """Return the images per second of a way, or None if it was not measured."""
        return next((finding.images_per_second for finding in self.findings if finding.cell == cell), None)

    def fastest(self, precisions: Sequence[str]) -> Finding | None:
        """Return the fastest measured way in one of these types, or None if none was measured."""
        measured = [
            finding
            for finding in self.findings
            if finding.images_per_second is not None and finding.cell.precision in precisions
        ]
        return max(measured, key=lambda finding: finding.images_per_second or 0.0, default=None)

    def save(self) -> Path:
        """Save the probe to the cache. Returns the file."""
        path = self.identity.cache_file()
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(self))
        return path

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Probe:
        """Restore a probe from JSON fields."""
        findings = (
            Finding(Cell(**finding["cell"]), finding["images_per_second"], finding["problem"])
            for finding in fields["findings"]
        )
        return cls(Identity(**fields["identity"]), fields["date"], tuple(findings))


def read_probe(identity: Identity) -> Probe | None:
    """Return the cached findings, or None if there are none that can be read."""
    try:
        return Probe.from_fields(json.loads(identity.cache_file().read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def advise(probe: Probe, recipe: Cell) -> list[str]:
    """Return the advice for a recipe that trains as `recipe`, a line each.

    The type of the arithmetic is the recipe's choice: a faster one is mentioned, but never part of the line to add.
    """
    best, own = probe.fastest([recipe.precision]), probe.speed(recipe)
    if best is None or best.images_per_second is None:
        return ["nothing could be measured; the recipe stays as it is"]
    lines = []
    if own is not None and best.images_per_second < _NOTICEABLE * own:
        lines.append(f"the recipe's own way, {recipe}, is the fastest or as good; nothing to change")
    else:
        gain = "" if own is None else f", {best.images_per_second / own:.2f}x as fast as the recipe's own way"
        lines.append(f"fastest in {recipe.precision}: {best.cell}{gain}; add to the command:")
        lines.append(f"  {override_line(best.cell, recipe)}")
    overall = probe.fastest([finding.cell.precision for finding in probe.findings])
    if overall and (overall.images_per_second or 0.0) >= _NOTICEABLE * best.images_per_second:
        times = (overall.images_per_second or 0.0) / best.images_per_second
        lines.append(
            f"{overall.cell} is {times:.2f}x as fast as that, with other arithmetic: that is for you to decide "
            f"(execution.precision={overall.cell.precision})"
        )
    return lines


def override_line(cell: Cell, recipe: Cell) -> str:
    """Return layout and compilation of a way as overrides of a recipe, and CUDA graphs if the recipe differs in
    them."""
    keys = {"execution.channels_last": cell.channels_last, "execution.compile": cell.compile}
    if cell.cuda_graphs != recipe.cuda_graphs:
        keys["native.cuda_graphs"] = cell.cuda_graphs
    return " ".join(f"{key}={str(value).lower()}" for key, value in keys.items())
