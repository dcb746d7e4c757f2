"""The paper's Figures 6 and 7 from measured gates."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.__main__ import main
from pipeline.config.reader import write_run_config
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR, UserError
from pipeline.reporting.gates import gate_figure
from pipeline.reporting.page import render_report
from pipeline.running.stage import parts_of, place_stages
from stages import STAGES
from tests.recipes import small_recipe
from tests.reporting.example_run import make_config, make_run, read_record
from tests.reporting.measured_gates import PAPERS, measured
from tests.sealed import seal_part

SVG = "{http://www.w3.org/2000/svg}"


def test_the_paper_s_blocks_and_classes_are_shown_if_they_are_there(tmp_path: Path) -> None:
    gates = measured(tmp_path, ("n00000001", *PAPERS))
    assert gates.choose_blocks() == ["SE_2_3", "SE_3_4", "SE_4_6", "SE_5_1", "SE_5_2", "SE_5_3"]
    assert gates.choose_classes(6) == [1, 2, 3, 4]
    assert gates.choose_classes(7) == [1, 3]


def test_other_images_show_evenly_spaced_classes_and_any_are_found_by_name(tmp_path: Path) -> None:
    gates = measured(tmp_path, [f"class{number}" for number in range(10)], {1: 2, 2: 1})
    assert gates.choose_blocks() == ["SE_1_2", "SE_2_1"]
    assert gates.choose_classes(6) == [0, 2, 5, 7]
    assert gates.choose_classes(6, ["class9", "class3 words"]) == [9, 3]
    assert gates.choose_blocks(["SE_1_1"]) == ["SE_1_1"]
    with pytest.raises(UserError, match=r"--classes: there is no class of these images 'pug' \(there are: class0"):
        gates.choose_classes(6, ["pug"])
    with pytest.raises(UserError, match=r"--blocks: there is no block of this network 'SE_5_1' \(there are: SE_1_1, "):
        gates.choose_blocks(["SE_5_1"])


def test_a_figure_has_a_line_for_each_class_and_all_images_through_50_channels(tmp_path: Path) -> None:
    gates = measured(tmp_path)
    blocks = gates.choose_blocks()
    drawing = ET.fromstring(gate_figure(gates, 6, blocks, gates.choose_classes(6)))
    panels = [group for group in drawing.iter(f"{SVG}g")]
    assert [panel[0].text for panel in panels] == blocks
    for panel, block in zip(panels, blocks, strict=True):
        lines = [path for path in panel.iter(f"{SVG}path") if str(path.get("class")).startswith("line")]
        assert len(lines) == len(PAPERS) + 1
        points = np.array([point.split() for point in str(lines[1].get("d"))[1:].split("L")], float)
        assert points.shape == (50, 2)
        channels = np.arange(50) * 60 // 50
        np.testing.assert_allclose(points[:, 0], 250 * channels / 60, atol=0.06)
        np.testing.assert_allclose(1 - points[:, 1] / 130, gates.curve(block, 1, "mean")[channels], atol=1e-3)


def test_figure_7_has_a_band_of_one_standard_deviation(tmp_path: Path) -> None:
    gates = measured(tmp_path)
    drawing = ET.fromstring(gate_figure(gates, 7, ["SE_2_3"], [0]))
    band = next(path for path in drawing.iter(f"{SVG}path") if path.get("class") == "band")
    points = np.array([point.split() for point in str(band.get("d"))[1:-1].split("L")], float)
    upper = np.clip(gates.curve("SE_2_3", 0, "mean") + gates.curve("SE_2_3", 0, "std"), 0, 1)
    np.testing.assert_allclose(1 - points[:50, 1] / 130, upper[np.arange(50) * 60 // 50], atol=1e-3)


@pytest.mark.parametrize("blocks", [["SE_2_3"], ["SE_2_3", "SE_5_1", "SE_5_2"]])
def test_the_legend_of_many_classes_with_long_names_is_inside_the_figure_and_above_the_panels(
    tmp_path: Path, blocks: list[str]
) -> None:
    names = [f"{'a rather long name of a class ' * 2}{number}" for number in range(6)]
    drawing = ET.fromstring(gate_figure(measured(tmp_path, names), 6, blocks, range(6)))
    width = float(str(drawing.get("viewBox")).split()[2])
    entries = {str(text.text): text for text in drawing.findall(f"{SVG}text")}
    assert list(entries) == [*(f"{name} words" for name in names), "all images"]
    for name, text in entries.items():
        assert float(str(text.get("x"))) + 7 * len(name) <= width
    top = min(float(re.findall(r"[\d.]+", str(group.get("transform")))[1]) for group in drawing.findall(f"{SVG}g"))
    assert max(float(str(text.get("y"))) for text in entries.values()) < top - 20
    spots = {(text.get("x"), text.get("y")) for text in entries.values()}
    assert len(spots) == len(entries)


def test_the_report_shows_gates_if_they_were_measured(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    record = read_record(config, make_run(tmp_path, config))
    assert 'id="gates"' not in render_report(record, ()).html
    gates = measured(tmp_path / "gates", ["<script>", "b", "c"])
    page = render_report(dataclasses.replace(record, gates=gates), ()).html
    assert 'id="gates"' in page
    assert "<script" not in page
    assert "Without SE_5_1, SE_5_2, SE_5_3, 1,350 parameters less (19 % of all blocks" in page
    assert re.search(r"top-1 error 20.00 % -&gt; 20.25 %", page)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"model": {"name": "resnet_nano"}}, "the network has no squeeze-and-excitation blocks"),
        (
            {"data": {"test": "test"}, "evaluate": {"split": "test"}},
            "evaluate.split is test, and they are measured over validation images",
        ),
    ],
)
def test_figures_of_a_run_that_can_have_no_gates_are_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sections: dict[str, Any], reason: str
) -> None:
    write_run_config(tmp_path, small_recipe(tmp_path, report={"activations": True}, **sections))
    assert main(["figure", "6", str(tmp_path)]) == EXIT_USER_ERROR
    assert capsys.readouterr().err == f"{tmp_path}: has no gates to draw: {reason}\n"


def test_figures_are_drawn_of_a_run_and_refused_with_the_command_that_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert main(["figure", "6", str(run)]) == EXIT_USER_ERROR
    assert f"{run}/config.yaml: must be there (this is not a run directory; " in capsys.readouterr().err
    write_run_config(run, make_config(tmp_path))
    assert main(["figure", "6", str(run)]) == EXIT_USER_ERROR
    assert f"{run}: its gates are not measured; measure them: " in capsys.readouterr().err
    config = make_config(tmp_path, report={"activations": True})
    write_run_config(run, config)
    part = parts_of(place_stages(config, run, STAGES))["activations"]
    measured(part.directory)
    seal_part(part, ["gates.npz", "gates.json"])
    assert main(["figure", "7", str(run), "--classes", PAPERS[1], "--blocks", "SE_5_2"]) == EXIT_DONE
    assert f"{PAPERS[1]} words" in (run / "figure7.svg").read_text()
    assert re.search(r"SE_5_2 +60 +0\.\d{4} +0\.\d{4} +1\.25 +7\.50", capsys.readouterr().out)
    for out, message in (("g.png", "must end in .svg"), ("none/g.svg", "none is no folder")):
        assert main(["figure", "7", str(run), "--out", out]) == EXIT_USER_ERROR
        assert message in capsys.readouterr().err
