"""A trainer on small pictures in this very process, for tests that look inside a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.engines import create_engine
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.models import create_model
from pipeline.tracking.events import EventLog
from pipeline.training.batching import split_batch
from pipeline.training.checkpoint import CheckpointStore, read_checkpoint
from pipeline.training.trainer import Phase, Trainer
from tests.data.indexing import index_files, write_pictures
from tests.recipes import small_recipe


def train_steps(folder: Path, config: Config, last_step: int) -> dict[str, torch.Tensor]:
    """The weights after the steps 0 to last_step - 1 of this recipe, on 48 pictures below `folder`."""
    trainer = _new_trainer(folder, config, last_step, start=None)
    trainer.run()
    return {name: tensor.clone() for name, tensor in trainer._engine.model.state_dict().items()}


def small_trainer(folder: Path, last_step: int, start: Path | None = None, **sections: dict[str, Any]) -> Trainer:
    """The steps 0 to last_step - 1 of `small_recipe` with these sections, on 48 pictures.

    Of a fresh network, or from the checkpoint `start`; the engine is not warmed up.
    """
    return _new_trainer(folder, small_recipe(folder / "pictures", **sections), last_step, start)


def _new_trainer(folder: Path, config: Config, last_step: int, start: Path | None) -> Trainer:
    index = index_files(write_pictures(folder / "pictures", 48))
    model = create_model(config.model.name, config.model.reckoned_classes, dropout=config.model.dropout)
    state = None if start is None else read_checkpoint(start)
    if state is not None:
        model.load_state_dict(dict(state.model))
    collective = Collective(Ranks(), timeout_seconds=60)
    trainer = Trainer(
        config,
        index,
        index,
        Phase(0, last_step),
        split_batch(config.train.global_batch, 1, config.train.max_micro_batch),
        create_engine(model, config, collective),
        collective,
        CheckpointStore(folder / "checkpoints", config.checkpoint.keep_last, config.checkpoint.keep_best),
        EventLog(None),
        StopFlag(),
    )
    if state is not None and start is not None:
        trainer._engine.load_state_dict(state.optimizer)
        trainer.resume(state, start)
    return trainer
