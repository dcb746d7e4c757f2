from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.running.runner import run_stage
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.seal import read_seal, verify_files
from stages import STAGES, report
from tests.processes import run_stage_to_end
from tests.reporting.example_run import make_config, make_run
from tests.sealed import stage_context


def placed_report(folder: Path, run: Path) -> PlacedStage:
    return place_stages(make_config(folder), run, STAGES)["report"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run_stage_to_end(make_run(folder, make_config(folder)), "report")
    return folder


def test_the_stage_leaves_the_page_the_plots_and_the_tables(folder: Path) -> None:
    directory = placed_report(folder, folder / "run").directory
    seal = read_seal(directory, "stage")
    assert seal is not None
    verify_files(directory, seal)
    assert sorted(seal.files) == [
        "plots/calibration_center32.png",
        "plots/calibration_fused.png",
        "plots/cost.png",
        "plots/crops.png",
        "plots/images_per_second.png",
        "plots/loss.png",
        "plots/lr.png",
        "plots/validation.png",
        "report.html",
        "tables.json",
    ]
    for name in seal.files:
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


def test_the_runs_to_compare_with_are_read_and_are_in_the_key(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    other = make_run(tmp_path / "other", make_config(tmp_path / "other", seed=7))
    alone, of_one, of_list, of_two = (
        place_stages(make_config(tmp_path, report=given), run, STAGES)["report"].key
        for given in ({}, {"compare": str(run)}, {"compare": [str(run)]}, {"compare": [str(run), str(other)]})
    )
    assert len({alone, of_one, of_two}) == 3
    assert of_one == of_list
    config = make_config(tmp_path, report={"compare": [str(run), str(other)]})
    placed = place_stages(config, run, STAGES)
    directory = tmp_path / "report"
    with stage_context("report", config, run, directory) as context:
        done = report.run(context)
    page = (directory / "report.html").read_text()
    assert "plots/runs.png" in done.outputs
    assert f">1: {run}<" in page
    assert f">2: {other}<" in page
    assert "6 of 6 classes have as many top-1 errors in all runs under center32." in page
    assert page.count('<tr><th scope="row"><code>') == 1, "the key that differs"
    assert '<code>seed</code></th><td class="name"><code>2017</code></td>' in page
    table = placed["evaluate"].directory / "per-class-center32.tsv"
    table.write_text(table.read_text().replace("n00000000", "n00000009"))
    with (
        stage_context("report", config, run, directory) as context,
        pytest.raises(UserError, match=rf"{table}: its content has changed since it was written"),
    ):
        report.run(context)
    placed["evaluate"].directory.rename(tmp_path / "gone")
    with pytest.raises(
        UserError, match=r"stage 'evaluate' of this run is not done; to do it: python -m stages evaluate --run"
    ):
        place_stages(config, run, STAGES)


def test_results_that_changed_since_they_were_written_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    (results,) = run.glob("evaluate-*/results.json")
    results.write_text(results.read_text().replace("0", "1", 1))
    assert run_stage("report", make_config(tmp_path), run, STAGES) == EXIT_USER_ERROR
    said = capfd.readouterr().err
    assert f"{results}: its content has changed since it was written (SHA-256 differs)" in said
    assert f"delete {results.parent} to run stage 'evaluate' again" in said
    assert not (placed_report(tmp_path, run).directory / "report.html").exists()


def test_images_that_are_gone_leave_a_report_without_pictures(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    (tmp_path / "images").rename(tmp_path / "gone")
    with stage_context("report", make_config(tmp_path), run, tmp_path / "report") as context:
        report.run(context)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "the image file is gone" in page
    assert "data:image/jpeg" not in page
