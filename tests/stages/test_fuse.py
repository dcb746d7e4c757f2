"""The stage: what it reads, leaves and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.fusion import FuseConfig
from pipeline.config.schema import Config
from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.evaluation.scores import read_scores
from pipeline.ground.errors import UserError
from pipeline.running.context import StageResult
from pipeline.running.stage import parts_of, place_stages
from pipeline.tracking.events import read_events
from stages import STAGES, fuse
from tests.evaluation.ensemble_members import make_index, make_scores, rewrite_scores, write_scores
from tests.reporting.example_run import make_config, make_run
from tests.sealed import stage_context


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuse")
    return make_run(folder, make_config(folder))


def run_fuse(directory: Path, run: Path, config: Config) -> StageResult:
    with stage_context("fuse", config, run, directory) as context:
        return fuse.run(context)


def config_of(run: Path, **fuse_keys: Any) -> Config:
    return make_config(run.parent, fuse=fuse_keys)


def test_the_runs_own_plans_are_fused(tmp_path: Path, run: Path) -> None:
    result = run_fuse(tmp_path / "fuse", run, config_of(run))
    assert sorted(result.outputs) == ["fused.json", "scores-fused.npy", "scores-fused.seal.json"]
    figures = json.loads((tmp_path / "fuse" / "fused.json").read_text())
    assert [member["name"] for member in figures["members"]] == ["center32", "flipped"]
    (event,) = read_events(tmp_path / "fuse", "evaluation")
    assert (event["plan"], event["members"], event["images"]) == ("fused", 2, 60)
    assert event["top1_error_percent"] == result.metrics["top1_error_percent"] == figures["errors"]["top1"]["percent"]


def test_a_second_attempt_leaves_the_same_and_one_event(tmp_path: Path, run: Path) -> None:
    first = run_fuse(tmp_path / "fuse", run, config_of(run, selection="greedy"))
    before = {name: (tmp_path / "fuse" / name).read_bytes() for name in first.outputs}
    again = run_fuse(tmp_path / "fuse", run, config_of(run, selection="greedy"))
    assert {name: (tmp_path / "fuse" / name).read_bytes() for name in again.outputs} == before
    assert len(list(read_events(tmp_path / "fuse"))) == 1


def test_other_runs_and_files_are_members_too(tmp_path: Path, run: Path) -> None:
    other = make_run(tmp_path / "other", make_config(tmp_path / "other"))
    (evaluate,) = other.glob("evaluate-*")
    for path in evaluate.glob("scores-*.npy"):
        # Another network, or its scores would be these very ones.
        rewrite_scores(path, np.roll(read_scores(path).array, 1, axis=1))
    config = config_of(run, scores=[str(other)], member_weights=[1.0, 1.0, 2.0, 2.0])
    run_fuse(tmp_path / "fuse", run, config)
    members = json.loads((tmp_path / "fuse" / "fused.json").read_text())["members"]
    assert [Path(member["scores"]).parent for member in members[2:]] == [evaluate] * 2
    assert [member["weight"] for member in members] == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=1e-6)
    key = place_stages(config, run, STAGES)["fuse"].key
    flipped = evaluate / "scores-flipped.npy"
    rewrite_scores(flipped, np.roll(read_scores(flipped).array, 1, axis=1))
    assert place_stages(config, run, STAGES)["fuse"].key != key, "what is in the files is in the key"


def test_own_scores_of_other_images_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    (path,) = run.glob("evaluate-*/scores-center32.npy")
    rewrite_scores(path, read_scores(path).array, index_sha256="0" * 64)
    with pytest.raises(UserError, match=r"scores-center32\.npy: made from other images than those of .*prepare-"):
        run_fuse(tmp_path / "fuse", run, make_config(tmp_path))


def test_a_member_of_no_numbers_is_refused_by_name(tmp_path: Path, run: Path) -> None:
    other = make_run(tmp_path / "other", make_config(tmp_path / "other"))
    (path,) = other.glob("evaluate-*/scores-flipped.npy")
    array = np.array(read_scores(path).array)
    array[3, 0] = np.nan
    rewrite_scores(path, array)
    with pytest.raises(UserError, match=r"scores-flipped\.npy: must hold log-probabilities"):
        run_fuse(tmp_path / "fuse", run, config_of(run, scores=[str(path)]))


def test_members_that_are_not_there_are_refused_before_anything_runs(run: Path) -> None:
    with pytest.raises(UserError, match=r"/nowhere: must be a score file \(\.npy\), a folder of score files or a run"):
        place_stages(config_of(run, scores=["/nowhere"]), run, STAGES)
    with pytest.raises(UserError, match=r"/nowhere: the recipe names this file, and it is not there"):
        place_stages(config_of(run, weights_from="/nowhere"), run, STAGES)


def test_weights_are_those_of_a_fusion_whose_content_is_in_the_key(tmp_path: Path, run: Path) -> None:
    run_fuse(tmp_path / "first", run, config_of(run, member_weights=[1.0, 3.0]))
    by_folder = config_of(run, weights_from=str(tmp_path / "first"))
    run_fuse(tmp_path / "second", run, by_folder)
    members = json.loads((tmp_path / "second" / "fused.json").read_text())["members"]
    assert [member["weight"] for member in members] == [0.25, 0.75]
    by_file = config_of(run, weights_from=str(tmp_path / "first" / "fused.json"))
    key = place_stages(by_folder, run, STAGES)["fuse"].key
    assert place_stages(by_file, run, STAGES)["fuse"].key == key
    run_fuse(tmp_path / "first", run, config_of(run, member_weights=[1.0, 4.0]))
    assert place_stages(by_folder, run, STAGES)["fuse"].key != key


def test_test_images_get_scores_and_contest_files_and_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        tmp_path,
        data={"dataset": "imagenet", "root": str(tmp_path / "images"), "test": "test"},
        model={"name": "senet_nano", "num_classes": 1000},
        evaluate={"split": "test", "plans": ["center224", "10crop"]},
    )
    parts = parts_of(place_stages(config, tmp_path / "run", STAGES))
    index = make_index(parts["prepare-test"].directory, 30, 1000, "imagenet", split="test")
    for seed, plan in enumerate(("center224", "10crop")):
        scores = make_scores(np.arange(30), 1000, seed)
        write_scores(parts["evaluate"].directory, plan, scores, index)
    monkeypatch.setattr(fuse, "read_ilsvrc2012", lambda: dataclasses.replace(read_ilsvrc2012(), num_test=30))
    result = run_fuse(tmp_path / "fuse", tmp_path / "run", config)
    assert result.metrics == {"images": 30, "members": 2}
    lines = (tmp_path / "fuse" / "submission-2012.txt").read_text().splitlines()
    assert len(lines) == 30
    fused = read_scores(tmp_path / "fuse" / "scores-fused.npy").array
    position = list(index.names).index("ILSVRC2012_test_00000002.JPEG")
    assert int(lines[1].split()[0]) == index.classes[int(fused[position].argmax())].ilsvrc2012_id
    assert list(read_events(tmp_path / "fuse")) == []
    with pytest.raises(UserError, match=r"fuse\.selection: test images have no labels to choose on"):
        run_fuse(
            tmp_path / "again", tmp_path / "run", config.model_copy(update={"fuse": FuseConfig(selection="greedy")})
        )
