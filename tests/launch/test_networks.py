from __future__ import annotations

import pytest

from launch.__main__ import main
from launch.networks import COLUMNS, network_rows
from pipeline.networks.registry import NETWORKS

ROWS = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in network_rows()}


def test_every_network_has_a_row() -> None:
    assert list(ROWS) == list(NETWORKS)


def test_a_row_has_costs_the_paper_s_figures_the_deviation_and_the_paper_s_errors() -> None:
    assert ROWS["se_mobilenet_v1"] == {
        "network": "se_mobilenet_v1",
        "parameters": "4,718,044",
        "GMAC": "0.5692",
        "px": "224",
        "paper's GFLOPs": "0.572",
        "ours": "-0.49 %",
        "paper's parameters": "4.7 M",
        "errors": "25.3 / 7.7",
        "recipe": "configs/paper/table3_se_mobilenet_v1.yaml",
    }
    assert ROWS["inception_resnet_v2"]["ours"] == "+11.96 %"
    assert ROWS["senet154"]["errors"] == "18.68 / 4.47"


def test_a_recipe_is_named_after_its_network_if_there_is_one() -> None:
    assert ROWS["senet154"]["recipe"] == "configs/senet154_1gpu.yaml"


def test_the_terminal_shows_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["network", *NETWORKS]
    assert lines[0].split() == " ".join(COLUMNS).split()
