from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.identity import Leaf, identity, key_of, leaves
from pipeline.config.schema import Config
from pipeline.config.section import Kind
from pipeline.running.stage import Part, parts_of, place_stages
from stages import STAGES
from tests.config.changes import changed
from tests.recipes import small_recipe

LEAVES = list(leaves())
OPERATIONS = {
    "data.root", "data.train", "data.val", "data.val_ground_truth", "data.test", "data.shards",
    "model.weights", "train.validate_every_epochs", "freeze_bn.from_checkpoint",
    "engine", "native.bucket_mb", "native.static_graph", "native.cuda_graphs", "deepspeed.zero_stage",
    "evaluate.weights", "evaluate.classes", "fuse.scores", "fuse.weights_from", "report.compare",
    "report.activations",
    "loader.decoder", "loader.threads", "loader.prefetch_images", "loader.decode_batch", "loader.decode",
    "loader.hw_decoder_load", "loader.preallocate_px",
    "checkpoint.every_epochs", "checkpoint.every_steps", "checkpoint.keep_last", "checkpoint.keep_best",
    "tracking.wandb", "tracking.project", "tracking.entity", "tracking.log_every_steps", "tracking.upload_scores",
    "tracking.upload_weights", "tracking.tags",
    "resources.processes", "resources.expected_images_per_second", "resources.collective_timeout_seconds",
}  # fmt: skip
CHECKS = {"model.expect.parameters", "model.expect.gmacs", "model.expect.image_size_px", "model.expect.layer_table"}
OF_FILES = {
    "data.val_ground_truth": {"prepare-val"},
    "freeze_bn.from_checkpoint": {"freeze_bn"},
    "evaluate.weights": {"evaluate"},
    "evaluate.classes": {"evaluate"},
    "model.weights": {"build"},
    "fuse.scores": {"fuse"},
    "fuse.weights_from": {"fuse"},
    "report.compare": {"report"},
}
"""Operations that name a file, whose content is in the key of these parts."""
OF_SPLITS = {"data.resize_train_px": {"prepare-train"}, "data.exclude": {"prepare-train"}}


def recipe() -> Config:
    return small_recipe(Path("/images"))


def placed(config: Config) -> dict[str, Part]:
    return parts_of(place_stages(config, Path("run"), STAGES))


def test_operations_and_checks_are_these_and_no_others() -> None:
    assert {leaf.name for leaf in LEAVES if leaf.kind is Kind.OPERATION} == OPERATIONS
    assert {leaf.name for leaf in LEAVES if leaf.kind is Kind.CHECK} == CHECKS


def with_readers(parts: dict[str, Part], names: set[str]) -> set[str]:
    """The parts and all that are made from them."""
    for part in parts.values():
        if names & part.inputs.keys():
            names = names | {part.name}
    return names & parts.keys()


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.name)
def test_a_leaf_changes_the_keys_of_its_section_s_stages_and_of_no_others(leaf: Leaf, tmp_path: Path) -> None:
    if leaf.name in OF_FILES:
        pytest.skip("names a file; the tests of named files change its content")
    before, after = (placed(config) for config in changed(recipe(), leaf, "unused"))
    owners: set[str] = set()
    if leaf.kind is Kind.RESULT:
        sections = {f"{stage.name}": stage.sections for stage in STAGES}
        owners = {part for part in before if leaf.section in sections[part.partition("-")[0]]}
    owners = (
        OF_SPLITS.get(leaf.name, set())
        | {part for part in owners if not part.startswith("prepare")}
        | (set() if leaf.name in OF_SPLITS else {part for part in owners if part.startswith("prepare")})
    )
    touched = {name for name, part in before.items() if name in after and part.key != after[name].key}
    gone = before.keys() ^ after.keys()
    assert touched | gone >= with_readers(before, owners) - gone, leaf.name
    if not gone:
        assert touched == with_readers(before, owners), leaf.name


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf.kind is Kind.RESULT], ids=lambda leaf: leaf.name)
def test_every_result_key_belongs_to_a_stage(leaf: Leaf) -> None:
    assert any(leaf.section in stage.sections for stage in STAGES)


def test_defaults_are_no_part_of_an_identity() -> None:
    config = recipe()
    found = identity(config, ("augmentation", "execution"))
    assert found == {"augmentation.pixel_jitter": 8.0, "augmentation.rotation_degrees": 5.0}
    assert identity(config, ("seed", "name")) == {"seed": 11, "name": "small"}


def test_plans_count_by_what_is_not_at_its_default() -> None:
    found = identity(recipe(), ("evaluate",))
    plan = {"name": "center32", "crops": [{"resize_px": 32, "crop_px": 32}]}
    assert found == {"evaluate.plans": [plan], "evaluate.batch": 8}
    assert json.loads(json.dumps(found)) == found


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    assert key_of("a", {"x": 1, "y": [2]}) == key_of("a", {"y": [2], "x": 1})
    assert key_of("a", {"x": 1}) != key_of("a", {"x": 2})
    assert len(key_of("a")) == 10
