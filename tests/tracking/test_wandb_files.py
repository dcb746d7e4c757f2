"""What W&B gets beside the curves, in the files that its own client writes offline."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config.operations import TrackingConfig
from pipeline.store.seal import seal_directory
from pipeline.tracking import wandb_mirror as mirror_module
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import CONSOLE, TABLES, WandbMirror
from tests.tracking.stages import evaluate, tracked
from tests.tracking.wandb_file import read_artifacts, read_console, read_history, read_run

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of two stages of a run, one after the other: an evaluation, and a report that has pictures."""
    run = tmp_path_factory.mktemp("run")
    weights = {alias: run / "train-1" / f"{alias}.safetensors" for alias in ("best", "latest")}
    (run / "train-1").mkdir()
    for alias, file in weights.items():
        file.write_text(f"the {alias} weights")
    described: dict[str, Any] = {"weights": weights, "tags": ("senet_nano", "digits"), "commit": COMMIT}
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(run / "home"))
        patch.setattr(mirror_module, "CLOSE_SECONDS", 120.0)
        for part, files in (("evaluate", dict[str, bytes]()), ("report", report_files(run))):
            stage = tracked(run, part, trained_steps=5, **described)
            (stage.directory / CONSOLE).write_text(f"{part}  a line with é\n")
            mirror = WandbMirror(TrackingConfig(project="tests"), stage, "offline", warnings.append)
            finish(stage, files)
            mirror.close(0)
    assert warnings == []
    return sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def report_files(run: Path) -> dict[str, bytes]:
    Image.new("RGB", (9, 9), "red").save(run / "red.png")
    picture = (run / "red.png").read_bytes()
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    mistakes = {"columns": ["picture", "true"], "rows": [[uri, "cat"], [None, "dog"]]}
    tables = json.dumps({"mistakes": mistakes}).encode()
    return {"report.html": b"<p>all</p>", "plots/loss.png": picture, TABLES: tables}


def finish(stage: Tracked, files: dict[str, bytes]) -> None:
    evaluate(stage, stage.part)
    (stage.directory / "plots").mkdir()
    for name, content in files.items():
        (stage.directory / name).write_bytes(content)
    seal_directory(stage.directory, "stage", {"metrics": {}}, files)


def test_the_commit_is_that_of_our_source_and_the_folder_s_own_repository_stays_private(pieces: list[Path]) -> None:
    described = [read_run(piece) for piece in pieces]
    assert [(run.git.commit, run.git.remote_url) for run in described] == [(COMMIT, "")] * 2
    assert not [path for piece in pieces for path in piece.parent.rglob("*.patch")]


def test_tags_are_set_once_and_then_their_owner_s(pieces: list[Path]) -> None:
    assert [list(read_run(piece).tags) for piece in pieces] == [["senet_nano", "digits"], []]


def test_the_console_has_what_the_stage_showed_in_a_file_of_its_own(pieces: list[Path]) -> None:
    assert [read_console(piece) for piece in pieces] == ["evaluate  a line with é\n", "report  a line with é\n"]
    assert [len(list(piece.parent.glob("files/logs/output_*.log"))) for piece in pieces] == [1, 1]


def test_the_report_is_a_page_plots_are_pictures_and_so_are_the_mistakes_in_their_table(pieces: list[Path]) -> None:
    rows = {key: value for row in read_history(pieces[1]) for key, value in row.items()}
    assert (rows["report._type"], rows["plots/loss._type"]) == ("html-file", "image-file")
    (page,) = pieces[1].parent.glob("files/media/html/*.html")
    assert page.read_text() == "<p>all</p>"
    (table,) = (found for found in read_artifacts(pieces[1]) if found.type == "run_table")
    files = {entry.path: entry.local_path for entry in table.manifest.contents}
    (row, other) = json.loads(Path(files["mistakes.table.json"]).read_text())["data"]
    assert (row[0]["_type"], row[0]["width"], row[1], other) == ("image-file", 9, "cat", [None, "dog"])
    assert Image.open(files[row[0]["path"]]).getpixel((0, 0)) == (255, 0, 0)


def test_the_weights_are_versions_of_one_artifact_uploaded_once(pieces: list[Path]) -> None:
    first, second = ([found for found in read_artifacts(piece) if found.type == "model"] for piece in pieces)
    assert second == []
    assert [found.name for found in first] == ["small-weights"] * 2
    assert [set(found.aliases) >= {alias} for found, alias in zip(first, ("best", "latest"), strict=True)] == [True] * 2
    assert [entry.path for found in first for entry in found.manifest.contents] == ["weights.safetensors"] * 2
    assert [Path(found.manifest.contents[0].local_path).name for found in first] == [
        "best.safetensors",
        "latest.safetensors",
    ]
