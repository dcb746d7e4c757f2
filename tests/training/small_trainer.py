"""A trainer on small pictures in this very process, for tests that look inside a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data.index import Dataset, ImageClass
from pipeline.data.order import StreamOrder
from pipeline.engines import create_engine
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.models import create_model
from pipeline.tracking.events import EventLog
from pipeline.training.batching import split_batch
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.trainer import Phase, Trainer
from tests.data.indexing import index_files, write_pictures
from tests.recipes import small_recipe


def small_trainer(folder: Path, last_step: int, **sections: dict[str, Any]) -> Trainer:
    """A fresh network and the steps 0 to last_step - 1 of `small_recipe` with these sections, on 48 pictures."""
    index = index_files(write_pictures(folder / "pictures", 48))
    config = small_recipe(folder / "pictures", **sections)
    classes = tuple(ImageClass(label, str(label), str(label), None) for label in range(4))
    collective = Collective(Ranks(), timeout_seconds=60)
    return Trainer(
        config,
        Dataset("pictures", classes, index, index),
        StreamOrder(len(index), config.train.global_batch, config.seed),
        Phase(0, last_step),
        split_batch(config.train.global_batch, 1, config.train.max_micro_batch),
        create_engine(
            create_model(config.model.name, config.model.num_classes, dropout=config.model.dropout), config, collective
        ),
        collective,
        CheckpointStore(folder / "checkpoints", config.checkpoint.keep_last, config.checkpoint.keep_best),
        EventLog(None),
        StopFlag(),
    )
