"""Prepare in this process, and what it leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.config.view import view
from pipeline.data.index import ImageIndex, read_index
from pipeline.data.loaders import build_train_loader
from pipeline.data.source import locate
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext, StageResult
from pipeline.running.stage import Part
from pipeline.store.seal import seal_directory
from pipeline.tracking.events import Event, EventLog
from stages import prepare

INDEX_FILES = {"index.json", "names.txt", "rows.npy", "classes.json"}
OUTPUTS = {*INDEX_FILES, "findings.tsv"}
SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the stage left of a split, and what it told."""

    directory: Path
    config: Config
    result: StageResult
    told: list[Event]

    @property
    def index(self) -> ImageIndex:
        # As in a stage that trains or evaluates, which may read the operations of `data` alone.
        return locate(read_index(self.directory), self.directory, view(self.config, ("input",)).data)

    @property
    def notes(self) -> list[str]:
        return [event["text"] for event in self.told if event["kind"] == "note"]

    @property
    def warnings(self) -> list[str]:
        return [event["text"] for event in self.told if event["kind"] == "note" and event["level"] == "warning"]


def run_prepare(run: Path, config: Config, splits: tuple[str, ...] = SPLITS) -> dict[str, Prepared]:
    """The stage's code in this process, for each split in turn; each is sealed before the next."""
    parts = {
        split: Part(
            name=f"prepare-{split}",
            split=split,
            key="key",
            version=1,
            directory=run / f"prepare-{split}",
            inputs={},
            identity={},
        )
        for split in splits
    }
    made = {}
    for split, part in parts.items():
        part.directory.mkdir(parents=True, exist_ok=True)
        told: list[Event] = []
        events = EventLog(part.directory, [told.append])
        context = StageContext(
            config=view(config, ("data",)),
            run=run,
            part=part,
            inputs={},
            seals={},
            siblings={each.name: each for each in parts.values()},
            ranks=Ranks(),
            events=events,
            stop=StopFlag(),
        )
        try:
            result = prepare.run(context)
        finally:
            events.close()
        seal_directory(part.directory, "stage", {}, result.outputs)
        made[split] = Prepared(part.directory, config, result, told)
    return made


def with_data(config: Config, **keys: Any) -> Config:
    """Without the schema's checks: small data sets pass for ImageNet's here."""
    return config.model_copy(update={"data": config.data.model_copy(update=keys)})


def outputs_of(prepared: Prepared) -> dict[str, bytes]:
    return {name: (prepared.directory / name).read_bytes() for name in OUTPUTS}


def training_batches(index: ImageIndex, config: Config) -> list[torch.Tensor]:
    cpu = torch.device("cpu")
    loader = build_train_loader(index, config, Ranks(), cpu, micro_batch=6, first_step=1, last_step=4)
    return [tensor for batch in loader for tensor in (batch.images, batch.labels, batch.positions, batch.affine)]
