"""Recipes as a person writes them, and what they are told about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.config.reader import load_config
from pipeline.ground.errors import UserError

SMALL = """\
name: small
data:
  dataset: digits
model:
  name: senet_nano
  num_classes: 10
optim:
  lr: 0.1
schedule:
  drop_epochs: [2]
train:
  epochs: 4
  global_batch: 64
  max_micro_batch: 32
  frozen_epochs: 1
  label_smoothing: 0.1
"""
"""Hardly more than what has no default. optim.lr stands in line 8, train.epochs in line 12, the last key in line 16."""


def with_lr(value: str) -> str:
    """The small recipe with another learning rate, in line 8."""
    return SMALL.replace("lr: 0.1", f"lr: {value}")


def mistakes(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The lines of the error that reading the recipe ends in."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value).splitlines()
