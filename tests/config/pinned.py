"""The meaning of recipes, pinned in files: every key with its default, every network, the stage keys of every recipe.

`python -m tests.config.pinned` accepts what they are now.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from launch.networks import networks_page
from pipeline.config.documentation import key_page
from pipeline.config.reader import load_config
from pipeline.running.stage import parts_of, place_stages
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.glossary import glossary_page

RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))


def stage_keys() -> str:
    """The key of every part, by recipe."""
    placed = {path.stem: parts_of(place_stages(load_config(path), Path("run"), STAGES)) for path in RECIPES}
    keys = {recipe: {name: part.key for name, part in parts.items()} for recipe, parts in placed.items()}
    return json.dumps(keys, indent=1) + "\n"


PINNED: dict[str, Callable[[], str]] = {
    "docs/glossary.md": glossary_page,
    "docs/keys.md": key_page,
    "docs/networks.md": networks_page,
    "tests/config/golden/keys.json": stage_keys,
}
"""What the files hold now, by path."""

if __name__ == "__main__":
    for name, now in PINNED.items():
        (REPOSITORY / name).write_text(now())
