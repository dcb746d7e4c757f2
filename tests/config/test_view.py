from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.view import UndeclaredKey, view
from tests.recipes import small_recipe


def test_a_result_key_of_another_section_cannot_be_read() -> None:
    seen = view(small_recipe(Path("/images")), ("train",))
    assert seen.train.epochs == 6
    with pytest.raises(UndeclaredKey, match=r"optim\.lr can change a result; name 'optim' in the stage's sections"):
        _ = seen.optim.lr
    with pytest.raises(UndeclaredKey, match="seed can change a result"):
        _ = seen.seed


def test_operations_and_checks_can_be_read_by_every_stage() -> None:
    seen = view(small_recipe(Path("/images")), ())
    assert seen.loader.threads == 2
    assert seen.data.root == "/images"
    assert seen.model.expect is None
    assert seen.tracking.log_every_steps == 3
    assert seen.engine == "native"


def test_properties_and_methods_read_through_the_view() -> None:
    read: set[str] = set()
    seen = view(small_recipe(Path("/images")), ("train",), read)
    assert seen.train_stage_epochs == 4
    assert read == {"train.epochs", "train.frozen_epochs"}
    with pytest.raises(UndeclaredKey, match="model_dump: a stage reads fields one by one"):
        seen.train.model_dump()
