from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.manifest import read_manifest, verify_outputs
from pipeline.tracking.events import EventLog
from stages import STAGES, report
from tests.processes import finish, run_stage_to_end, start_stage
from tests.reporting.example_run import make_config, make_run


def placed_report(folder: Path, run: Path) -> PlacedStage:
    return place_stages(make_config(folder), run, STAGES)["report"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run_stage_to_end(make_run(folder, make_config(folder)), "report")
    return folder


def test_the_stage_leaves_the_page_the_plots_and_the_tables(folder: Path) -> None:
    directory = placed_report(folder, folder / "run").directory
    manifest = read_manifest(directory)
    assert manifest is not None
    verify_outputs(directory, manifest)
    assert sorted(manifest.outputs) == [
        "plots/calibration_center32.png",
        "plots/calibration_fused.png",
        "plots/cost.png",
        "plots/images_per_second.png",
        "plots/loss.png",
        "plots/lr.png",
        "plots/validation.png",
        "plots/crops.png",
        "plots/worst_classes.png",
        "report.html",
        "tables.json",
    ]
    for name in manifest.outputs:
        if name.endswith(".png"):
            with Image.open(directory / name) as image:
                image.load()
    assert json.loads((directory / "tables.json").read_text())["results"]["rows"][0][0] == "center32"


def test_the_stage_writes_nowhere_but_into_its_directory(folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    own = placed_report(tmp_path, run).directory
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    run_stage_to_end(run, "report")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {
        path for path in after if path.is_relative_to(own)
    }


def test_the_run_to_compare_with_is_read_and_is_in_the_key(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    config = make_config(tmp_path, report={"compare": str(run)})
    placed = place_stages(config, run, STAGES)
    assert placed["report"].key != placed_report(tmp_path, run).key
    directory = tmp_path / "report"
    directory.mkdir()
    inputs = {name: placed[name].directory for name in placed["report"].inputs}
    events = EventLog(directory)
    report.run(StageContext(config, run, directory, inputs, Ranks(), events, StopFlag()))
    events.close()
    assert "6 of 6 classes have as many errors in both" in (directory / "report.html").read_text()
    placed["evaluate"].directory.rename(tmp_path / "gone")
    with pytest.raises(UserError, match="this run is not evaluated yet"):
        place_stages(config, run, STAGES)


def test_results_that_changed_since_they_were_written_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    (results,) = run.glob("evaluate-*/results.json")
    results.write_text(results.read_text().replace("0", "1", 1))
    assert finish(start_stage(run, "report")) == [2]
    assert not (placed_report(tmp_path, run).directory / "report.html").exists()
