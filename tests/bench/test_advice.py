from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipeline.bench.advice import Finding, Identity, Probe, advise, read_probe
from pipeline.bench.cell import Cell, all_cells

IDENTITY = Identity("GPU", "2.11", 91000, "senet154", 224, 32, "bfloat16")
CELLS = all_cells(("bfloat16", "float16"))
RECIPE = Cell("bfloat16", channels_last=False, compile=False)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def probe(*speeds: float | None) -> Probe:
    """These speeds for eager bfloat16 NCHW and NHWC, eager float16 NCHW and NHWC, and so on compiled."""
    findings = [Finding(cell, speed, None if speed else "late") for cell, speed in zip(CELLS, speeds, strict=False)]
    return Probe(IDENTITY, "today", tuple(findings))


def test_eager_ways_come_before_compiled_ones():
    assert [str(cell) for cell in CELLS][:5] == [
        "eager NCHW bfloat16",
        "eager NHWC bfloat16",
        "eager NCHW float16",
        "eager NHWC float16",
        "compiled NCHW bfloat16",
    ]


def test_cuda_graphs_are_ways_of_their_own_in_the_types_that_are_asked_for():
    cells = all_cells(("bfloat16", "float16"), with_graphs=("float16",))
    assert [cell for cell in cells if not cell.cuda_graphs] == CELLS
    assert [str(cell) for cell in cells if cell.cuda_graphs] == [
        "eager NCHW float16, CUDA graphs",
        "eager NHWC float16, CUDA graphs",
        "compiled NCHW float16, CUDA graphs",
        "compiled NHWC float16, CUDA graphs",
    ]
    assert [cell.compile for cell in cells] == sorted(cell.compile for cell in cells)


def test_cuda_graphs_are_advised_by_the_engines_key_and_only_where_the_recipe_differs():
    graphs = dataclasses.replace(RECIPE, cuda_graphs=True)
    known = Probe(IDENTITY, "today", (Finding(RECIPE, 100), Finding(graphs, 150)))
    assert advise(known, RECIPE) == [
        "fastest in bfloat16: eager NCHW bfloat16, CUDA graphs, 1.50x as fast as the recipe's own way; add to the "
        "command:",
        "  execution.channels_last=false execution.compile=false native.cuda_graphs=true",
    ]
    known = Probe(IDENTITY, "today", (Finding(RECIPE, 150), Finding(graphs, 100)))
    assert (
        advise(known, graphs)[1] == "  execution.channels_last=false execution.compile=false native.cuda_graphs=false"
    )
    assert Probe.from_fields(dataclasses.asdict(known)) == known


def test_the_fastest_layout_and_compilation_are_advised_as_overrides():
    assert advise(probe(100, 120, 110, 90, 115, 150), RECIPE) == [
        "fastest in bfloat16: compiled NHWC bfloat16, 1.50x as fast as the recipe's own way; add to the command:",
        "  execution.channels_last=true execution.compile=true",
    ]


def test_another_type_is_never_part_of_the_line_to_add():
    assert advise(probe(100, 110, 165, 90), RECIPE)[1:] == [
        "  execution.channels_last=true execution.compile=false",
        "eager NCHW float16 is 1.50x as fast as that, with other arithmetic: that is for you to decide "
        "(execution.precision=float16)",
    ]


def test_a_recipe_that_is_as_good_stays_as_it_is():
    lines = advise(probe(100, 102), RECIPE)
    assert lines == ["the recipe's own way, eager NCHW bfloat16, is the fastest or as good; nothing to change"]


def test_the_recipes_own_way_may_have_failed():
    assert advise(probe(None, 80), RECIPE) == [
        "fastest in bfloat16: eager NHWC bfloat16; add to the command:",
        "  execution.channels_last=true execution.compile=false",
    ]
    assert advise(probe(None, None), RECIPE) == ["nothing could be measured; the recipe stays as it is"]


def test_a_probe_is_kept_and_read_for_the_same_setting_only(tmp_path):
    kept = probe(100, None, 3.5)
    assert read_probe(IDENTITY) is None
    assert kept.save().is_relative_to(tmp_path / "senet154" / "autotune")
    assert read_probe(IDENTITY) == kept
    others: dict[str, Any] = {"device": "another", "torch": "2.12", "cudnn": 92000, "batch": 64, "model": "x"}
    for name, other in others.items():
        assert read_probe(dataclasses.replace(IDENTITY, **{name: other})) is None


def test_a_damaged_file_is_measured_anew():
    path = probe(100).save()
    path.write_text("{")
    assert read_probe(IDENTITY) is None
