"""Keys of score files: everything that scores depend on, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.data.index import ImageClass
from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipeline.evaluation.plan_scoring import Evaluated
from tests.evaluation.ensemble_members import make_index
from tests.evaluation.small_run import MANY, make_config


@pytest.fixture
def evaluated(tmp_path: Path) -> Evaluated:
    preprocessing = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear_antialias")
    index = make_index(tmp_path / "prepare")
    settings = {"evaluate.batch": 3}
    return Evaluated(make_config(tmp_path), 5, settings, tmp_path / "w.safetensors", "a", preprocessing, index)


def test_scores_are_described_by_their_weights_images_and_classes(evaluated: Evaluated) -> None:
    described = evaluated.describe(MANY)
    assert (described.plan, described.images, described.classes) == ("many", 40, 8)
    assert (described.weights_sha256, described.index_sha256) == ("a", evaluated.index.digest)
    assert described.weights == str(evaluated.weights)


@pytest.mark.parametrize("change", ["version", "identity", "weights_sha256", "index", "classes", "crops", "averaging"])
def test_what_scores_depend_on_changes_their_key(evaluated: Evaluated, change: str) -> None:
    plan, index = MANY, evaluated.index
    classes = (ImageClass(0, "another", "", None), *index.classes[1:])
    changes: dict[str, dict[str, object]] = {
        "version": {"version": 6},
        "identity": {"identity": {**evaluated.identity, "model.squeeze": "max"}},
        "weights_sha256": {"weights_sha256": "b"},
        "index": {"index": dataclasses.replace(index, digest="another")},
        "classes": {"index": dataclasses.replace(index, classes=classes)},
        "crops": {},
        "averaging": {},
    }
    if change == "crops":
        plan = MANY.model_copy(update={"crops": MANY.crops[:1]})
    if change == "averaging":
        plan = MANY.model_copy(update={"averaging": "logits"})
    other = dataclasses.replace(evaluated, **changes[change])  # type: ignore[arg-type]
    assert other.describe(plan).key != evaluated.describe(MANY).key


def test_names_of_the_plan_and_of_the_weight_file_do_not_change_it(evaluated: Evaluated) -> None:
    moved = dataclasses.replace(evaluated, weights=Path("elsewhere.safetensors"))
    renamed = MANY.model_copy(update={"name": "renamed"})
    assert moved.describe(renamed).key == evaluated.describe(MANY).key
