"""Each engine reads every key that says how to train, or the recipe is refused: none is ignored in silence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config.section import Section
from pipeline.data.normalisation import Preprocessor
from pipeline.engines import apex, create_engine, deepspeed
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from tests.engines.apex_stand_in import FusedSGD
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

COLLECTIVE = Collective(Ranks(), timeout_seconds=60)


class Recorded:
    """A section that notes which of its keys are read."""

    def __init__(self, section: Section) -> None:
        self._section = section
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._section, name)

    @property
    def keys(self) -> set[str]:
        return set(type(self._section).model_fields)


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engines import need not be here."""
    stand_in = SimpleNamespace(initialize=lambda **options: (mock.Mock(), None))
    monkeypatch.setattr(deepspeed, "_import_deepspeed", lambda collective: stand_in)
    monkeypatch.setattr(Collective, "join_group", lambda self: None)
    monkeypatch.setattr(Collective, "limit", lambda self, group: None)
    monkeypatch.setattr(apex, "check_apex", lambda device: None)
    monkeypatch.setitem(sys.modules, "apex.optimizers", SimpleNamespace(FusedSGD=FusedSGD))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("engine", ["native", "apex", "deepspeed"])
def test_no_engine_ignores_a_key(engine: str, precision: str) -> None:
    chosen: dict[str, Any] = {"engine": engine, "execution": {"precision": precision}}
    config = small_recipe(Path("unused"), **chosen)
    sections = {name: Recorded(getattr(config, name)) for name in ("optim", "execution", engine)}
    recorded = SimpleNamespace(**{"apex": None, "deepspeed": None, "native": None, **sections})
    create_engine(create_model("senet_nano", 4), recorded, COLLECTIVE)  # type: ignore[arg-type]
    # The images are laid out by the preprocessor, whatever the engine; DeepSpeed leaves the weights as they are.
    Preprocessor(config.input, config.augmentation, torch.device("cpu"), recorded.execution.channels_last)
    for name, section in sections.items():
        assert section.read >= section.keys, f"{engine} ignores {name}.{', '.join(section.keys - section.read)}"
