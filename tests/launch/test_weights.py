from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.__main__ import main
from launch.command import parse
from launch.weights import convert_weights
from pipeline.interop.__main__ import main as exchange
from pipeline.models import create_model
from pipeline.store.weight_header import read_metadata
from tests.interop.caffe_network import CaffeNetwork


def test_the_layout_may_stand_between_the_paths():
    arguments = parse(["weights", "import", "a.pth", "--layout", "cadene", "b.safetensors"])
    assert (arguments.action, arguments.file, arguments.out) == ("import", Path("a.pth"), Path("b.safetensors"))
    assert arguments.layout == "cadene"


def test_a_child_converts_whatever_the_file_is_called(capfd, tmp_path):
    torch.save(create_model("senet_nano", 10).state_dict(), tmp_path / "--odd name.pth")
    assert main(["weights", "import", str(tmp_path / "--odd name.pth"), str(tmp_path / "w.safetensors")]) == 0
    assert "layout   ours" in capfd.readouterr().out
    assert read_metadata(tmp_path / "w.safetensors")["source_layout"] == "ours"


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (2, 2), (1, 1), (-9, 1)])
def test_the_child_s_exit_code_is_the_command_s(monkeypatch, tmp_path, code, expected):
    ended = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ended)
    assert convert_weights("import", tmp_path, tmp_path, None) == expected


def test_a_wrong_command_ends_with_2_and_one_message(capsys, tmp_path):
    torch.save(create_model("senet_nano", 10).state_dict(), tmp_path / "w.pth")
    out = tmp_path / "w.safetensors"
    out.touch()
    assert exchange(["import", str(tmp_path / "w.pth"), str(out)]) == 2
    assert capsys.readouterr().err == f"{out}: is there already; remove it or choose another name\n"


def test_a_name_in_a_file_cannot_steer_the_terminal(capfd, tmp_path):
    state = create_model("senet_nano", 10).state_dict()
    torch.save({**state, "\x1b]0;title\x07\x1b[2Jlayer1": torch.zeros(1)}, tmp_path / "w.pth")
    assert main(["weights", "import", str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")]) == 2
    shown = capfd.readouterr().err
    assert "1 of 126 tensors unexpected: \\x1b]0;title\\x07\\x1b[2Jlayer1" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_what_was_found_and_what_differs_is_said(capsys, tmp_path):
    CaffeNetwork(num_classes=1000, seed=0).save(tmp_path / "SENet.caffemodel")
    assert exchange(["import", str(tmp_path / "SENet.caffemodel"), str(tmp_path / "w.safetensors")]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == str(tmp_path / "SENet.caffemodel")
    assert lines[1:4] == [
        "layout   caffe",
        "network  senet_nano, 1,000 classes, 813,244 parameters",
        "images   RGB mean (123, 117, 104), std (1, 1, 1) of 255; resized by bilinear; max-pool ceil",
    ]
    assert "note     1000 classes, taken for the devkit's order and put into that of the sorted WordNet ids" in lines
    export = ["export", str(tmp_path / "w.safetensors"), str(tmp_path / "w.pth"), "--layout", "timm"]
    assert exchange(export) == 0
    assert "max-pool is not padded, and the network that loads --layout timm has the other" in capsys.readouterr().out
    again = ["import", str(tmp_path / "w.pth"), str(tmp_path / "again.safetensors")]
    assert exchange(again) == 0
    assert "its max-pool is padded, and so lies one pixel off the authors'" in capsys.readouterr().out
    export = ["export", str(tmp_path / "w.safetensors"), str(tmp_path / "w.caffemodel"), "--layout", "caffe"]
    assert exchange(export) == 0
    assert "the prototxt's mean_value is 104, 117, 123 (BGR)" in capsys.readouterr().out


def test_asking_for_help_does_not_import_torch():
    code = (
        "import runpy, sys; sys.argv = ['launch', 'weights', 'import', '--help']\n"
        "try: runpy.run_module('launch', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'google.protobuf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "senet154.gluon_in1k" in done.stdout
    assert done.stdout.endswith("[]\n")
