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
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext, StageResult
from pipeline.running.stage import place_stages
from pipeline.store.file import sha256_of
from pipeline.tracking.events import EventLog, read_events
from stages import STAGES, fuse
from tests.evaluation.ensemble_members import make_dataset, make_scores, write_scores
from tests.reporting.example_run import make_config, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuse")
    return make_run(folder, make_config(folder))


def run_fuse(directory: Path, run: Path, config: Config) -> StageResult:
    directory.mkdir(exist_ok=True)
    placed = place_stages(config, run, STAGES)
    inputs = {name: placed[name].directory for name in placed["fuse"].inputs}
    events = EventLog(directory)
    try:
        return fuse.run(StageContext(config, run, directory, inputs, Ranks(), events, StopFlag()))
    finally:
        events.close()


def config_of(run: Path, **fuse_keys: Any) -> Config:
    return make_config(run.parent, fuse=fuse_keys)


def test_the_runs_own_plans_are_fused(tmp_path: Path, run: Path) -> None:
    result = run_fuse(tmp_path / "fuse", run, config_of(run))
    assert sorted(result.outputs) == ["fused.json", "scores-fused.json", "scores-fused.npy"]
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
        array = np.roll(read_scores(path).array, 1, axis=1)
        described = json.loads(path.with_suffix(".json").read_text())
        np.save(path, array)
        path.with_suffix(".json").write_text(json.dumps({**described, "sha256": sha256_of(path)}))
    config = config_of(run, scores=[str(other)], member_weights=[1.0, 1.0, 2.0, 2.0])
    run_fuse(tmp_path / "fuse", run, config)
    members = json.loads((tmp_path / "fuse" / "fused.json").read_text())["members"]
    assert [Path(member["scores"]).parent for member in members[2:]] == [evaluate] * 2
    assert [member["weight"] for member in members] == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=1e-6)
    key = place_stages(config, run, STAGES)["fuse"].key
    (description,) = evaluate.glob("scores-flipped.json")
    description.write_text(description.read_text().replace("1.5", "2.5"))
    assert place_stages(config, run, STAGES)["fuse"].key != key, "what is in the files is in the key"


def test_members_that_are_not_there_are_refused_before_anything_runs(run: Path) -> None:
    with pytest.raises(UserError, match=r"/nowhere: must be a score file \(\.npy\), a folder of score files or a run"):
        place_stages(config_of(run, scores=["/nowhere"]), run, STAGES)
    with pytest.raises(UserError, match=r"/nowhere: the config names this file, and it is not there"):
        place_stages(config_of(run, member_weights="/nowhere"), run, STAGES)


def test_test_images_get_scores_and_contest_files_and_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        tmp_path,
        data={"dataset": "imagenet", "root": str(tmp_path / "images"), "test": "test"},
        model={"name": "senet_nano", "num_classes": 1000},
        evaluate={"split": "test", "plans": ["center224", "10crop"]},
    )
    placed = place_stages(config, tmp_path / "run", STAGES)
    dataset = make_dataset(placed["prepare"].directory, 30, 1000, "imagenet", split="test")
    for seed, plan in enumerate(("center224", "10crop")):
        scores = make_scores(np.arange(30), 1000, seed)
        write_scores(placed["evaluate"].directory, plan, scores, dataset, "test")
    monkeypatch.setattr(fuse, "read_ilsvrc2012", lambda: dataclasses.replace(read_ilsvrc2012(), num_test=30))
    result = run_fuse(tmp_path / "fuse", tmp_path / "run", config)
    assert result.metrics == {"images": 30, "members": 2}
    lines = (tmp_path / "fuse" / "submission-2012.txt").read_text().splitlines()
    assert len(lines) == 30
    fused = read_scores(tmp_path / "fuse" / "scores-fused.npy").array
    position = list(dataset.test.paths if dataset.test else ()).index("ILSVRC2012_test_00000002.JPEG")
    assert int(lines[1].split()[0]) == dataset.classes[int(fused[position].argmax())].ilsvrc2012_id
    assert list(read_events(tmp_path / "fuse")) == []
    with pytest.raises(UserError, match=r"fuse\.selection: test images have no labels to choose on"):
        run_fuse(
            tmp_path / "again", tmp_path / "run", config.model_copy(update={"fuse": FuseConfig(selection="greedy")})
        )
