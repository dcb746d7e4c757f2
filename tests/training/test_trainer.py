from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.reader import read_run_config, write_run_config
from pipeline.config.schema import Config
from pipeline.data.index import read_index
from pipeline.data.loaders import build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.data.order import StreamOrder
from pipeline.data.preprocessing import Preprocessing, read_preprocessing
from pipeline.data.source import locate
from pipeline.ground.errors import TrainingDiverged
from pipeline.ground.ranks import Ranks
from pipeline.ground.seeds import derive_seed
from pipeline.models import create_model
from pipeline.models.batch_norm import freeze_batch_norms
from pipeline.models.weights import read_weights
from pipeline.running.attempts import read_outcome
from pipeline.running.stage import PlacedStage, parts_of, place_stages
from pipeline.store.seal import read_seal
from pipeline.store.weight_header import read_metadata
from pipeline.tracking.events import read_events
from pipeline.training import background_writer
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.schedule import LearningRate
from pipeline.training.trainer import Trainer
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import finish, run_stage_to_end, start_stage
from tests.recipes import small_recipe
from tests.training.small_trainer import small_trainer

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=20, val_per_class=5)


def start_run(run: Path, config: Config) -> dict[str, PlacedStage]:
    run.mkdir()
    write_run_config(run, config)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    return place_stages(config, run, STAGES)


def plain_loop(config: Config, placed: dict[str, PlacedStage]) -> dict[str, dict[str, torch.Tensor]]:
    """What the training stages must come to, without any of their machinery: one process, one batch of everything, one
    optimizer from the first step to the last."""
    directory = parts_of(placed)["prepare-train"].directory
    index = locate(read_index(directory), directory, config.data)
    order = StreamOrder(len(index), config.train.global_batch, config.seed)
    middle, last_step = order.steps_for(config.train_stage_epochs), order.steps_for(config.train.epochs)
    rate = LearningRate(config.schedule, config.optim.lr, order, config.train.epochs)
    preprocessor = Preprocessor(config.input, config.augmentation, CPU, channels_last=False)
    model = create_model(config.model.name, config.model.reckoned_classes, dropout=config.model.dropout)
    model.load_state_dict(read_weights(placed["build"].directory / "weights.safetensors"))
    optimizer = torch.optim.SGD(model.parameters(), 1.0, config.optim.momentum, weight_decay=config.optim.weight_decay)
    results = {}
    loader = build_train_loader(index, config, Ranks(), CPU, micro_batch=24, first_step=0, last_step=last_step)
    for step, batch in enumerate(loader):
        if step == middle:
            results["train"] = {name: value.clone() for name, value in model.state_dict().items()}
            freeze_batch_norms(model, config.freeze_bn.scope)
        torch.manual_seed(derive_seed(config.seed, "step", step, 0))
        optimizer.param_groups[0]["lr"] = rate.at(step)
        optimizer.zero_grad()
        logits = model(preprocessor.training(batch))
        nn.functional.cross_entropy(logits, batch.labels, label_smoothing=config.train.label_smoothing).backward()
        optimizer.step()
    return {**results, "freeze_bn": model.state_dict()}


@pytest.mark.parametrize("scope", ["statistics", "statistics_and_affine"])
def test_both_training_stages_are_one_plain_loop_bit_for_bit(tmp_path: Path, images: Path, scope: str) -> None:
    """One micro-batch a step and the same memory layout, so that nothing is left that could sum in another order. The
    rate drops while the batch norms are frozen."""
    config = small_recipe(
        images,
        train={"max_micro_batch": 24, "epochs": 4},
        execution={"channels_last": False},
        freeze_bn={"scope": scope},
    )
    placed = start_run(tmp_path / "run", config)
    expected = plain_loop(config, placed)
    for stage in ("train", "freeze_bn"):
        run_stage_to_end(tmp_path / "run", stage)
        found = read_weights(placed[stage].directory / "weights.safetensors")
        assert expected[stage].keys() == found.keys()
        for name, value in expected[stage].items():
            assert torch.equal(found[name], value), f"{name} after {stage}"
    # Whoever gets the file can see what its network must be shown.
    metadata = read_metadata(placed["train"].directory / "weights.safetensors")
    shown = Preprocessing(config.input.mean, config.input.std, "bilinear_antialias")
    assert read_preprocessing(metadata, "weights") == shown


def test_accumulated_micro_batches_are_one_global_batch(tmp_path: Path, images: Path) -> None:
    """With the batch norms frozen and nothing random per process, 4 x 6 images are 1 x 24 images."""
    run = tmp_path / "run"
    config = small_recipe(images, model={"dropout": 0.0}, augmentation={"pixel_jitter": 0.0})
    placed = start_run(run, config)
    run_stage_to_end(run, "train")
    checkpoint = placed["train"].directory / "checkpoints" / "step-00000014"
    results = []
    for micro_batch in (6, 24):
        overrides = (f"freeze_bn.from_checkpoint={checkpoint}", f"train.max_micro_batch={micro_batch}")
        run_stage_to_end(run, "freeze_bn", overrides=overrides)
        directory = place_stages(read_run_config(run, overrides), run, STAGES)["freeze_bn"].directory
        seal = read_seal(directory, "stage")
        assert seal is not None
        assert seal.about["metrics"]["accumulation"] == 24 // micro_batch
        results.append(read_weights(directory / "weights.safetensors"))
    start = read_checkpoint(checkpoint).model
    assert start.keys() == results[0].keys()
    # Sums in another order differ by rounding, which a ReLU near 0 amplifies; a wrong weight of the parts by far more.
    apart, way = (
        torch.cat([(one[name].double() - other[name].double()).flatten() for name in start]).norm()
        for one, other in (results, (results[0], start))
    )
    assert apart < 0.02 * way


def test_events_tell_every_logged_step_once_and_the_seal_the_result(tmp_path: Path, images: Path) -> None:
    config = small_recipe(images)
    placed = start_run(tmp_path / "run", config)
    run_stage_to_end(tmp_path / "run", "train")
    directory = placed["train"].directory
    last = StreamOrder(80, 24, config.seed).steps_for(4)
    assert last == 14
    train = list(read_events(directory, "train"))
    assert [event["global_step"] for event in train] == [1, 3, 6, 9, 12, 14]
    assert all(math.isfinite(event["loss"]) for event in train)
    assert [event["epoch"] for event in train][-1] == pytest.approx(14 * 24 / 80)
    validations = list(read_events(directory, "validation"))
    assert [event["global_step"] for event in validations] == [4, 7, 10, 14]
    assert {event["images"] for event in validations} == {20}
    seal = read_seal(directory, "stage")
    assert seal is not None
    assert seal.about["metrics"]["global_step"] == 14
    assert seal.about["metrics"]["top1_error_percent"] == validations[-1]["top1_error_percent"]
    assert (
        seal.about["metrics"]["world_size"],
        seal.about["metrics"]["micro_batch"],
        seal.about["metrics"]["accumulation"],
    ) == (
        1,
        6,
        4,
    )


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("lr", "what"), [(1e20, "the loss was"), (1e10, "weights became")])
def test_a_loss_or_weights_that_are_no_numbers_stop_the_run_before_they_are_saved(
    lr: float, what: str, world_size: int, tmp_path: Path, images: Path
) -> None:
    """Bad weights are seen by the main rank alone, which ends with the reason; the others end since it has gone."""
    config = small_recipe(images, optim={"lr": lr}, schedule={"warmup_epochs": 0.0}, checkpoint={"every_steps": 1})
    placed = start_run(tmp_path / "run", config)
    assert finish(start_stage(tmp_path / "run", "train", world_size)) == [1] * world_size
    outcome = read_outcome(placed["train"].directory)
    assert outcome is not None
    assert f"{what} NaN or infinite in step 2, so training stops and nothing more is saved" in outcome.message
    assert outcome.message.endswith("step-00000001")
    assert "the last good checkpoint is" in outcome.message
    checkpoints = placed["train"].directory / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000001"]
    saved = read_checkpoint(checkpoints / "step-00000001")
    for value in (*saved.model.values(), *saved.optimizer.tensors.values()):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize(("bad_step", "ends_after"), [(2, 3), (4, 4)])
@pytest.mark.parametrize("is_asked_to_stop", [False, True])
def test_weights_that_are_no_numbers_are_told_at_the_next_step_and_before_any_end_of_the_stage(
    bad_step: int, ends_after: int, is_asked_to_stop: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of training, after its last step, and where a stop is asked for in the very step."""
    trainer = small_trainer(
        tmp_path, last_step=4, train={"validate_every_epochs": 9}, checkpoint={"every_steps": 1, "keep_last": 9}
    )
    take_step = trainer._engine.step

    def spoiling(learning_rate: float) -> None:
        take_step(learning_rate)
        if trainer._global_step + 1 == bad_step:
            with torch.no_grad():
                next(trainer._engine.model.parameters())[0, 0, 0, 0] = math.nan
            trainer._stop.reason = "SIGTERM" if is_asked_to_stop else None

    monkeypatch.setattr(trainer._engine, "step", spoiling)
    with pytest.raises(TrainingDiverged, match=rf"^weights .* in step {bad_step}, .*/step-{bad_step - 1:08d}$"):
        trainer.run()
    assert trainer._global_step == (bad_step if is_asked_to_stop else ends_after)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == [
        f"step-{step:08d}" for step in range(1, bad_step)
    ]


def test_a_checkpoint_finds_memory_for_its_copy_that_a_thread_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the weights and for the momentum, which is not there yet when training begins."""
    made_in = []

    class Noted(background_writer._CopyMemory):
        def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
            made_in.append(threading.current_thread().name)
            super().__init__(tensors)

    monkeypatch.setattr(background_writer, "_CopyMemory", Noted)
    small_trainer(tmp_path, last_step=2, train={"validate_every_epochs": 9}, checkpoint={"every_steps": 1}).run()
    assert made_in == ["checkpoint-writer_0"] * 2


class ScalarReads(TorchDispatchMode):
    """Notes after how many steps a value is read from the device, which on a GPU makes the host wait."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self.after_steps: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.after_steps.append(self._trainer._global_step)
        return func(*args, **(kwargs or {}))


def test_values_are_read_from_the_device_only_for_a_line_of_the_record(tmp_path: Path) -> None:
    trainer = small_trainer(
        tmp_path,
        last_step=11,
        train={"validate_every_epochs": 9},
        checkpoint={"every_steps": None, "every_epochs": 9},
        tracking={"log_every_steps": 4},
    )
    with ScalarReads(trainer) as reads:
        trainer.run()
    # The first step and the last are always told, and the last is validated and saved.
    assert sorted(set(reads.after_steps)) == [1, 4, 8, 11]


def test_freeze_bn_counts_on_and_changes_all_but_the_batch_norms(tmp_path: Path, images: Path) -> None:
    config = small_recipe(images)
    placed = start_run(tmp_path / "run", config)
    for stage in ("train", "freeze_bn"):
        run_stage_to_end(tmp_path / "run", stage)
    frozen = list(read_events(placed["freeze_bn"].directory, "train"))
    assert frozen[0]["global_step"] == 15
    assert frozen[-1]["global_step"] == 20
    before = read_weights(placed["train"].directory / "weights.safetensors")
    after = read_weights(placed["freeze_bn"].directory / "weights.safetensors")
    for name in before:
        in_batch_norm = ".bn" in name or ".downsample.1." in name
        assert torch.equal(before[name], after[name]) == in_batch_norm, name
