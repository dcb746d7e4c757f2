from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import tune
from launch.tune import print_tuning
from pipeline.bench.advice import Identity, read_probe
from tests.conftest import REPOSITORY

RECIPE = REPOSITORY / "configs" / "demo.yaml"
IDENTITY: dict[str, Any] = {
    "device": "some GPU",
    "torch": "2.11",
    "cudnn": 91000,
    "model": "senet_nano",
    "image_size_px": 32,
    "batch": 64,
    "precision": "float32",
}
WAYS = [
    {"precision": "float32", "channels_last": layout, "compile": compiled}
    for compiled in (False, True)
    for layout in (False, True)
]
PYTHON = sys.executable
CHILD = """
import json, sys, time
json.load(sys.stdin)
print({first!r}, flush=True)
for line in {lines!r}:
    print(line, flush=True)
time.sleep({then})
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Has another program take the probe's place, which prints these speeds and then lingers for some seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def replace(*speeds: float, then: float = 0) -> None:
        first = json.dumps({"identity": IDENTITY, "cells": WAYS})
        lines = [
            json.dumps({"cell": cell, "images_per_second": speed, "problem": None})
            for cell, speed in zip(WAYS, speeds, strict=False)
        ]
        script = tmp_path / "child"
        script.write_text(f"#!{PYTHON}\n{CHILD.format(first=first, lines=lines, then=then)}")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


def cells_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("eager", "compiled"))]


def test_every_way_is_shown_with_the_overrides_to_add(child, capsys):
    child(100, 80, 120, 200)
    assert print_tuning(RECIPE, [], again=False) == 0
    shown = capsys.readouterr().out
    assert cells_of(shown) == [
        "eager NCHW float32     100.0",
        "eager NHWC float32     80.0      the recipe's",
        "compiled NCHW float32  120.0",
        "compiled NHWC float32  200.0",
    ]
    assert shown.startswith("starting PyTorch and looking at this machine\n")
    told = [line for line in shown.splitlines() if line.startswith("[")]
    assert told[1] == "[2/4] measuring eager NHWC float32"
    assert told[3] == "[4/4] measuring compiled NHWC float32, which is compiled first"
    assert shown.endswith(
        "fastest in float32: compiled NHWC float32, 2.50x as fast as the recipe's own way; add to the command:\n"
        "  execution.channels_last=true execution.compile=true\n"
    )


def test_cuda_graphs_are_part_of_the_recipes_own_way(child, capsys, monkeypatch):
    graphs = {**WAYS[1], "cuda_graphs": True}
    monkeypatch.setattr(sys.modules[__name__], "WAYS", [WAYS[1], graphs])
    child(150, 100)
    assert print_tuning(RECIPE, ["cuda_graphs=true"], again=False) == 0
    shown = capsys.readouterr().out
    assert cells_of(shown) == [
        "eager NHWC float32               150.0",
        "eager NHWC float32, CUDA graphs  100.0     the recipe's",
    ]
    assert shown.endswith("  execution.channels_last=true execution.compile=false native.cuda_graphs=false\n")


def test_what_is_known_is_not_measured_again_unless_asked_to(child, capsys):
    child(100, 80, 120, 200)
    print_tuning(RECIPE, [], again=False)
    child(1, 2, 3, 4)
    print_tuning(RECIPE, [], again=False)
    assert "--again measures anew" in (shown := capsys.readouterr().out)
    assert cells_of(shown)[-1].split()[-1] == "200.0"
    print_tuning(RECIPE, [], again=True)
    assert cells_of(capsys.readouterr().out)[-1].split()[-1] == "4.0"


def test_what_takes_too_long_is_left_out_and_the_rest_kept(child, capsys, monkeypatch):
    monkeypatch.setattr(tune, "SECONDS", 3.0)
    child(100, 120, then=60)
    assert print_tuning(RECIPE, [], again=False) == 0
    shown = capsys.readouterr().out
    assert cells_of(shown)[2:] == [
        f"compiled {layout} float32            not measured within 3 s" for layout in ("NCHW", "NHWC")
    ]
    kept = read_probe(Identity(**IDENTITY))
    assert [finding.images_per_second for finding in kept.findings] == [100, 120, None, None]


def test_a_probe_that_cannot_begin_has_said_why_and_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert print_tuning(RECIPE, [], again=False) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_probe_itself_measures_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Compiling takes half a minute: the time is over before, as it would be on a slow machine.
    original = tune._next
    taken = []

    def first_two(lines, deadline):
        taken.append(lines)
        return original(lines, deadline) if len(taken) <= 3 else None

    monkeypatch.setattr(tune, "_next", first_two)
    assert print_tuning(RECIPE, ["train.max_micro_batch=2"], again=False) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].startswith("senet_nano, 2 images of 32 px, on ")
    assert all(float(line.split()[3]) > 0 for line in cells_of(shown)[:2])
    assert list(Path(tmp_path / "senet154" / "autotune").glob("*.json"))
