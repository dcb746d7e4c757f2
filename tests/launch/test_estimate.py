from __future__ import annotations

from pathlib import Path

import pytest

from launch.estimate import (
    Span,
    checkpoint_bytes,
    process_memory,
    step_spans,
    steps_done,
    stream_order,
    training_images,
    training_rate,
)
from pipeline.config.schema import Config
from pipeline.data.digits import write_digits
from pipeline.models import create_model
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.tracking.events import EventLog
from stages import STAGES
from tests.launch.finished import finish, finish_prepare, save_checkpoint
from tests.recipes import small_recipe


def place(config: Config, run: Path) -> dict[str, PlacedStage]:
    return place_stages(config, run, STAGES)


def digits_recipe(tmp_path) -> Config:
    fields = small_recipe(tmp_path).model_dump()
    fields["data"] = {"dataset": "digits"}
    fields["model"]["num_classes"] = 10
    return Config.model_validate(fields)


def test_number_of_digits_is_what_prepare_writes(tmp_path):
    config = digits_recipe(tmp_path)
    write_digits(tmp_path / "digits", "train")
    written = sum(1 for _ in (tmp_path / "digits").rglob("*.*"))
    assert training_images(config, place(config, tmp_path)).count == written


def test_images_are_counted_once_prepare_is_done(tmp_path):
    config = small_recipe(tmp_path)
    prepare = place(config, tmp_path)["prepare"]
    assert training_images(config, place(config, tmp_path)).count is None
    finish_prepare(prepare, 7)
    assert training_images(config, place(config, tmp_path)).count == 7


@pytest.mark.parametrize("damage", ["{", "{}", None])
def test_a_damaged_index_is_reported(tmp_path, damage: str | None):
    config = small_recipe(tmp_path)
    placed = place(config, tmp_path)
    finish_prepare(placed["prepare"], 7)
    index = placed["prepare"].parts[0].directory / "index.json"
    index.unlink() if damage is None else index.write_text(damage)
    images = training_images(config, placed)
    assert images.count is None
    assert images.source == f"unknown: the index in {index.parent} is damaged"


def test_frozen_steps_begin_where_the_given_checkpoint_stands(tmp_path):
    config = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(save_checkpoint(tmp_path, 9))})
    order = stream_order(config, 80)
    assert step_spans(config, order, place(config, tmp_path)) == {"freeze_bn": Span(9, 20, 6)}


def test_the_training_stages_share_the_steps_of_the_recipe(tmp_path):
    config = small_recipe(tmp_path)
    spans = step_spans(config, stream_order(config, 80), place(config, tmp_path))
    # 80 images in steps of 24: epoch 4 ends in step 14, epoch 6 with step 20.
    assert spans == {"train": Span(0, 14, 4), "freeze_bn": Span(14, 20, 6)}


def test_steps_done_come_from_the_record_and_all_count_once_the_stage_is_done(tmp_path):
    train = place(small_recipe(tmp_path), tmp_path)["train"]
    span = Span(0, 14, 4)
    assert steps_done(train, span) == 0
    train.directory.mkdir()
    events = EventLog(train.directory)
    events.write("train", global_step=5)
    events.write("validation")
    events.close()
    assert steps_done(train, span) == 5
    finish(train)
    assert steps_done(train, span) == 14


def test_nothing_measured_and_nothing_expected_is_no_rate(tmp_path):
    config = small_recipe(tmp_path)
    assert training_rate(config, place(config, tmp_path)) is None


def test_checkpoint_size_is_that_of_the_tensors_in_it(tmp_path):
    config = small_recipe(tmp_path)
    model = create_model("senet_nano", 4)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values() if tensor.is_floating_point())
    momentum = sum(parameter.nbytes for parameter in model.parameters())
    assert checkpoint_bytes(config) == weights + momentum


def test_memory_halves_its_activations_at_16_bits_and_keeps_its_weights(tmp_path):
    full = process_memory(small_recipe(tmp_path), 8)
    half = process_memory(small_recipe(tmp_path, execution={"precision": "bfloat16"}), 8)
    assert full.parameters == half.parameters == 12 * sum(p.numel() for p in create_model("senet_nano", 4).parameters())
    assert full.activations / 2 <= half.activations < 0.6 * full.activations
