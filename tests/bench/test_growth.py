"""What grows with the images or the record, at small sizes; a finished run comes from the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bench import growth
from pipeline.bench.growth import compare_growth
from pipeline.store.seal import read_seal, seal_directory
from tests.reporting.example_run import make_config, make_run

pytestmark = pytest.mark.slow


def finished_run(folder: Path) -> Path:
    """A run whose training says, as a real one does, which images it was made from."""
    run = make_run(folder, make_config(folder))
    for name in ("prepare-train", "train"):
        (directory,) = run.glob(f"{name}-*")
        seal = read_seal(directory, "stage")
        assert seal is not None
        seal_directory(directory, "stage", {**seal.about, "images": {"train": "their digest"}}, seal.files)
    return run


def test_every_step_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "finished_run", finished_run)
    _, comparisons = compare_growth([200], [300], rounds=1, progress=lambda text: None)
    found = {comparison.title: comparison.measurements for comparison in comparisons}
    assert {title: [measured.name for measured in measurements] for title, measurements in found.items()} == {
        "index made, written and read": ["200 images"],
        "order and crops of an epoch": ["200 images"],
        "plan": ["200 images"],
        "report, by images": ["200 images"],
        "record read": ["300 lines"],
        "record opened again": ["300 lines"],
        "status": ["300 lines"],
        "report, by lines": ["300 lines"],
    }
    peaks = {title: measured.rounds[0].figures["peak MB"] for title, (measured,) in found.items()}
    # A process's own: `plan` imports no torch, and this process does.
    assert peaks["plan"] < peaks["order and crops of an epoch"]
    for (measured,) in found.values():
        (only,) = measured.rounds
        assert only.units in (200, 300)
        assert only.figures["CPU s"] > 0
        assert only.figures["peak MB"] > 5


def test_a_step_that_fails_ends_the_benchmark_with_what_it_printed(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_config(tmp_path))
    with pytest.raises(RuntimeError, match=r"(?s)pipeline.bench.growth read .* ended with 1: .*AssertionError"):
        growth._round(growth._step("read")(run, 7), run, 7)()
