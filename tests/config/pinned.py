"""The meaning of recipes, pinned in files: every key with its default, every network, the stage keys of every recipe.

`python -m tests.config.pinned` accepts what they are now.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from launch.networks import networks_page
from pipeline.config.documentation import key_page
from pipeline.config.reader import load_members
from pipeline.config.schema import Config
from pipeline.running.stage import parts_of, place_stages
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.glossary import glossary_page

RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))


def named(recipe: Path) -> str:
    """The name of a recipe: of those for a small network, after their folder too."""
    folder = recipe.parent.name
    return f"{folder}_{recipe.stem}" if folder == "small" else recipe.stem


def stage_keys() -> str:
    """The key of every part, by recipe; of the members of a sweep that of the training, by member."""
    keys: dict[str, dict[str, str]] = {}
    for path in RECIPES:
        members = {member.name: keys_of(member.config) for member in load_members(path)}
        keys[named(path)] = members.get("") or {name: parts["train"] for name, parts in members.items()}
    return json.dumps(keys, indent=1) + "\n"


def keys_of(config: Config) -> dict[str, str]:
    """The keys of a run's parts."""
    return {name: part.key for name, part in parts_of(place_stages(config, Path("run"), STAGES)).items()}


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
