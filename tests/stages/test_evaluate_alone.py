"""A recipe's evaluation alone: a `val` folder of any of a network's classes, and a weight file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.reader import load_config, write_run_config
from pipeline.config.schema import Config
from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.index import read_index
from pipeline.evaluation.metrics import rank_scores
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR
from pipeline.running.runner import run_stage
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.evaluation.small_run import make_weights

WNIDS = [synset.wnid for synset in read_ilsvrc2012().synsets]
PLAN = "{name: tiny, crops: [{resize_px: 40, crop_px: 32}]}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    make_weights(path, num_classes=1000)
    return path


def make_val(root: Path, folders: dict[str, list[str]]) -> None:
    for number, (folder, names) in enumerate(folders.items()):
        (root / "val" / folder).mkdir(parents=True)
        for name in names:
            pixels = np.random.default_rng(number * 97 + len(name)).integers(0, 256, (6, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((56, 48)).save(root / "val" / folder / name, "JPEG")


def recipe(root: Path, weights: Path, *overrides: str) -> Config:
    """The recipe of SENet-154 on one GPU, with a network small enough for a test."""
    small = ["model.name=senet_nano", "model.expect=", f"evaluate.plans=[{PLAN}]", "tracking.wandb=disabled"]
    given = [f"data.root={root}", f"evaluate.weights={weights}"]
    return load_config(REPOSITORY / "configs" / "senet154_1gpu.yaml", [*given, *small, *overrides])


def evaluate(config: Config, run: Path) -> dict[str, Any]:
    """Run every stage that the recipe has; returns the results of its one plan."""
    write_run_config(run, config)
    placed = place_stages(config, run, STAGES)
    for name in placed:
        assert run_stage(name, config, run, STAGES) == EXIT_DONE, name
    results = json.loads((placed["evaluate"].directory / "results.json").read_text())
    scores = np.load(placed["evaluate"].directory / results["plans"][0]["scores"]["file"])
    return {**results, **results["plans"][0], "array": scores, "report": placed["report"].directory / "report.html"}


def test_eight_images_of_ten_folders_are_scored_by_a_network_of_1000_classes(tmp_path, weights, capfd):
    chosen = [WNIDS[label] for label in (0, 217, 482, 491, 497, 566, 569)]
    files = {wnid: [f"{wnid}_1.JPEG"] for wnid in chosen} | {WNIDS[701]: ["ILSVRC2012_val_00000293.JPEG"]}
    make_val(tmp_path, files)
    found = evaluate(recipe(tmp_path, weights), tmp_path / "run")
    shown = capfd.readouterr().out
    assert "val: 8 images of 8 classes, not all of ILSVRC 2012's" in shown
    assert "the 8 classes of the images are found among the network's 1,000" in shown
    labels = np.array([WNIDS.index(wnid) for wnid in sorted(files)])
    assert found["array"].shape == (8, 1000)
    plain = rank_scores(found["array"], labels)
    assert found["top1_errors"] == plain.errors(1)
    assert found["top5_errors"] == plain.errors(5)
    present = np.sort(labels)
    among = (present[found["array"][:, present].argmax(1)] != labels).sum()
    assert (found["present_classes"], found["restricted_top1_error_percent"]) == (8, 100 * among / 8)
    assert f"top-1 error among the 8 classes present {100 * among / 8:.2f} %" in shown
    page = found["report"].read_text()
    assert "The network has 1,000 classes, and the images 8 of them" in page


def test_folders_of_numbers_are_labels_as_imagenet_v2_has_them(tmp_path, weights):
    make_val(tmp_path, {str(label): ["a.jpeg"] for label in (0, 1, 10, 100, 2)})
    found = evaluate(recipe(tmp_path, weights), tmp_path / "run")
    mistakes = {mistake["label"] for mistake in found["mistakes"]}
    assert mistakes <= {0, 1, 10, 100, 2}
    table = (found["report"].parent.parent / next(p.name for p in (tmp_path / "run").glob("evaluate-*"))).glob("*.tsv")
    rows = next(table).read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["0", "1", "2", "10", "100"]
    assert [row.split("\t")[1] for row in rows] == [WNIDS[label] for label in (0, 1, 2, 10, 100)]


def test_a_mapping_file_says_what_names_do_not_and_its_content_is_in_the_key(tmp_path, weights):
    make_val(tmp_path, {"shark": ["a.jpeg"], "tench": ["b.jpeg"]})
    run, table = tmp_path / "run", tmp_path / "classes.csv"
    config = recipe(tmp_path, weights)
    write_run_config(run, config)
    assert run_stage("prepare", config, run, STAGES) == EXIT_DONE
    assert run_stage("evaluate", config, run, STAGES) == EXIT_USER_ERROR
    table.write_text(f"shark,2\ntench,{WNIDS[0]}\n")
    config = recipe(tmp_path, weights, f"evaluate.classes={table}")
    before = place_stages(config, run, STAGES)["evaluate"].key
    assert evaluate(config, run)["present_classes"] == 2
    table.write_text(f"shark,3\ntench,{WNIDS[0]}\n")
    assert place_stages(config, run, STAGES)["evaluate"].key != before


def test_some_images_of_a_flat_folder_need_labels_of_their_own_alone(tmp_path, weights, capfd):
    make_val(tmp_path, {"": ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000005.JPEG"]})
    config = recipe(tmp_path, weights)
    write_run_config(tmp_path / "run", config)
    assert run_stage("prepare", config, tmp_path / "run", STAGES) == EXIT_USER_ERROR
    assert "data.val_ground_truth: needed, since the 2 validation images in " in capfd.readouterr().err
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text(f"ImageId,PredictionString\nILSVRC2012_val_00000005,{WNIDS[7]} 1 2 3 4 \n")
    assert run_stage("prepare", config, tmp_path / "run", STAGES) == EXIT_USER_ERROR
    assert f"{table} has no line for ILSVRC2012_val_00000001.JPEG" in capfd.readouterr().err
    table.write_text(f"{table.read_text()}ILSVRC2012_val_00000001,{WNIDS[9]} 1 2 3 4 \n")
    assert run_stage("prepare", config, tmp_path / "run", STAGES) == EXIT_DONE
    (index,) = (tmp_path / "run").glob("prepare-val-*")
    assert tuple(read_index(index).names) == (
        f"{WNIDS[7]}/ILSVRC2012_val_00000005.JPEG",
        f"{WNIDS[9]}/ILSVRC2012_val_00000001.JPEG",
    )


def test_weights_bring_their_own_number_of_classes_and_few_have_no_top5_error(tmp_path, capfd):
    weights = tmp_path / "w.safetensors"
    make_weights(weights, num_classes=4)
    make_val(tmp_path, {name: ["a.jpeg", "b.jpeg"] for name in "abcd"})
    found = evaluate(recipe(tmp_path, weights), tmp_path / "run")
    assert found["array"].shape == (8, 4)
    assert "top5_error_percent" not in found
    assert "restricted_top1_error_percent" not in found
    shown = capfd.readouterr().out
    assert "top-1 error" in shown
    assert "top-5" not in shown
    assert "With 4 classes there is no top-5 error." in found["report"].read_text()
