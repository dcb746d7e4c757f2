"""The keys in which recipes differ."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from pipeline.config.crop_plan import CropPlan
from pipeline.config.identity import leaves
from pipeline.config.schema import Config
from pipeline.config.section import Kind


def differing_keys(configs: Sequence[Config]) -> dict[str, tuple[str, ...]]:
    """Return the values of every key that changes results and is not the same in all recipes, but for their names."""
    found = {}
    for leaf in leaves():
        values = [_value(config, leaf.name) for config in configs]
        if leaf.kind is Kind.RESULT and leaf.name != "name" and any(value != values[0] for value in values):
            found[leaf.name] = tuple(map(_shown, values))
    return found


def _value(config: Config, key: str) -> Any:
    """Return the value of a dotted key; None if a section on the way is null."""
    return functools.reduce(lambda section, name: section and getattr(section, name), key.split("."), config)


def _shown(value: Any) -> str:
    if isinstance(value, CropPlan):
        return value.name
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
