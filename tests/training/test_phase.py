"""Where a phase begins, and what it leaves. What it computes is in test_trainer.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.data.index import ImageIndex
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.models import create_model
from pipeline.models.claims import meta_model
from pipeline.models.weights import read_weights, save_weights
from pipeline.store.file import sha256_of
from pipeline.tracking.events import Event, EventLog, read_events
from pipeline.training.checkpoint import CheckpointStore, verify_checkpoint
from pipeline.training.phase import PhaseResult, _choose_start, train_phase
from pipeline.training.trainer import Phase
from tests.data.indexing import index_files, write_pictures
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

LAST_STEP = 4


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    return index_files(write_pictures(tmp_path_factory.mktemp("images"), 48))


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    path = tmp_path / "initial.safetensors"
    save_weights(path, create_model("senet_nano", 4, seed=3).state_dict(), {})
    return path


class StopAfter(StopFlag):
    """Asks for a stop when it was looked at so many times, which is once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    @property
    def is_set(self) -> bool:
        self._steps -= 1
        return self._steps <= 0


def recipe(**sections: Any) -> Config:
    sections = {"train": {"max_micro_batch": 24, "validate_every_epochs": 9}, **sections}
    return small_recipe(Path("unused"), tracking={"log_every_steps": 1}, **sections)


def train(
    folder: Path,
    index: ImageIndex,
    initial: Path,
    *,
    config: Config | None = None,
    steps: int = 99,
    val: ImageIndex | None = None,
) -> tuple[PhaseResult, list[str]]:
    """To the end, or for some steps; returns also what was told."""
    folder.mkdir(exist_ok=True)
    config, told = config or recipe(), []

    def listen(event: Event) -> None:
        if event["kind"] == "note":
            told.append(event["text"])

    events = EventLog(folder, [listen])
    try:
        result = train_phase(
            config,
            folder,
            Collective(Ranks(), timeout_seconds=60),
            events,
            StopAfter(steps),
            index,
            val or index,
            Phase(0, LAST_STEP),
            meta_model(config.model, 4),
            initial,
        )
    finally:
        events.close()
    return result, told


def stopped(folder: Path, index: ImageIndex, initial: Path, step: int = 2, before: int = 0) -> None:
    """Train until a stop after `step`, from the one that was stopped after `before`."""
    with pytest.raises(StopRequested, match=f"after step {step}, saved in {folder}/checkpoints/step-0000000{step}; "):
        train(folder, index, initial, steps=step - before)


def test_a_stopped_phase_ends_with_the_bits_and_the_record_of_one_that_was_not(
    tmp_path: Path, index: ImageIndex, initial: Path
) -> None:
    whole, _ = train(tmp_path / "whole", index, initial)
    stopped(tmp_path / "parts", index, initial, step=1)
    stopped(tmp_path / "parts", index, initial, step=3, before=1)
    parts, told = train(tmp_path / "parts", index, initial)
    assert told[-1] == f"going on after step 3, from {tmp_path}/parts/checkpoints/step-00000003"
    assert parts.outputs == whole.outputs
    ours, theirs = (read_weights(tmp_path / name / "weights.safetensors") for name in ("parts", "whole"))
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    for name in ("parts", "whole"):
        assert [event["global_step"] for event in read_events(tmp_path / name, "train")] == [1, 2, 3, 4]


def test_it_leaves_weights_and_its_last_checkpoint_with_the_seal(
    tmp_path: Path, index: ImageIndex, initial: Path
) -> None:
    result, _ = train(tmp_path / "train", index, initial)
    last = "checkpoints/step-00000004"
    names = ["model.safetensors", "optimizer.safetensors", "state.json", "seal.json"]
    assert result.outputs == ["weights.safetensors", *(f"{last}/{name}" for name in names)]
    verify_checkpoint(tmp_path / "train" / last)
    assert result.images == {"train": index.digest, "val": index.digest}
    assert (result.metrics["global_step"], result.metrics["epochs"]) == (4, 2.0)
    assert result.metrics["images_per_second"] > 0
    validation = result.metrics["best"]
    assert validation["global_step"] == 4
    assert result.metrics["top1_error_percent"] == validation["top1_error_percent"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_images_are_refused(tmp_path: Path, index: ImageIndex, initial: Path, split: str) -> None:
    stopped(tmp_path / "train", index, initial)
    other = dataclasses.replace(index, digest="another")
    images = (other, index) if split == "train" else (index, other)
    message = rf"/step-00000002: made from other images \(those of {split} have changed\); put the old ones back"
    with pytest.raises(UserError, match=message):
        train(tmp_path / "train", images[0], initial, val=images[1])


def test_another_world_is_told_in_one_line(tmp_path: Path, index: ImageIndex, initial: Path) -> None:
    stopped(tmp_path / "train", index, initial)
    other = recipe(train={"max_micro_batch": 12, "validate_every_epochs": 9})
    _, told = train(tmp_path / "train", index, initial, config=other)
    assert told[-1].startswith("going on with micro_batch 24 -> 12, bn_batch 24 -> 12: the images")
    assert told[-1].endswith("the batch norms see other batches")


def test_a_damaged_checkpoint_is_named_and_training_resumes_from_the_one_before(
    tmp_path: Path, index: ImageIndex, initial: Path
) -> None:
    stopped(tmp_path / "train", index, initial, step=2)
    stopped(tmp_path / "train", index, initial, step=3, before=2)
    newest = tmp_path / "train" / "checkpoints" / "step-00000003"
    state = newest / "state.json"
    state.write_text(state.read_text().replace('"global_step": 3', '"global_step": 1'))
    _, told = train(tmp_path / "train", index, initial)
    assert told[1:] == [
        f"broken checkpoint passed over: {state}: its content has changed since it was written (SHA-256 differs)",
        f"going on after step 2, from {newest.with_name('step-00000002')}",
    ]


def test_weights_are_read_once_and_only_those_that_are_used(
    tmp_path: Path, index: ImageIndex, initial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def noting(path: Path) -> dict[str, torch.Tensor]:
        read.append(path)
        return read_weights(path)

    for module in ("pipeline.training.state", "pipeline.models.weights"):
        monkeypatch.setattr(f"{module}.read_weights", noting)
    stopped(tmp_path / "train", index, initial)
    assert read == [initial]
    read.clear()
    train(tmp_path / "train", index, initial)
    newest = tmp_path / "train" / "checkpoints" / "step-00000002"
    assert sorted(read) == [newest / "model.safetensors", newest / "optimizer.safetensors"]


class SecondRank(Collective):
    """Of two processes, the first of which has chosen."""

    def __init__(self, chosen: str | None) -> None:
        super().__init__(Ranks(), timeout_seconds=60)
        self.ranks, self._chosen = Ranks(1, 1, 2), chosen

    def broadcast(self, value: Any) -> Any:
        assert value is None
        return self._chosen


def test_the_main_rank_alone_hashes_and_decides(
    tmp_path: Path, index: ImageIndex, initial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def noting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("pipeline.store.seal.sha256_of", noting)
    stopped(tmp_path / "train", index, initial)
    store = CheckpointStore(tmp_path / "train" / "checkpoints", 2, True)
    newest, events = store.directory / "step-00000002", EventLog(None)
    files = ["model.safetensors", "optimizer.safetensors", "state.json"]
    hashed.clear()
    assert _choose_start(store, initial, SecondRank(str(newest)), events) == (newest, True)
    assert _choose_start(store, newest, SecondRank(None), events) == (newest, False)
    assert hashed == []
    assert _choose_start(store, initial, Collective(Ranks(), 60), events) == (newest, True)
    assert sorted(hashed) == files
