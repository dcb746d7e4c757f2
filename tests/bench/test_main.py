"""Every benchmark in a tiny configuration, by its command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bench import __main__ as bench
from pipeline.bench import cifar, startup, step
from pipeline.bench.cell import Cell
from pipeline.bench.cifar_inputs import noise, our_batches, plain_batches, torchvision_batches
from pipeline.bench.crop_plans import images_per_round
from pipeline.bench.measurement import Work
from pipeline.bench.pool_peer import installed_pools
from pipeline.bench.startup import cold_start, compare_answers, compare_first_steps
from tests.conftest import REPOSITORY
from tests.images import write_image_folders

pytestmark = pytest.mark.slow

TINY = ["--rounds", "1", "--limit", "8", "--batch", "4", "--workers", "1"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_image_folders(tmp_path_factory.mktemp("images"), 2, 6, 0) / "train"


def run(out: Path, *arguments: str | Path) -> dict[str, Any]:
    """What a benchmark recorded."""
    assert bench.main([*map(str, arguments), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def names(comparison: dict[str, Any], role: str) -> list[str]:
    return [contestant["name"] for contestant in comparison["contestants"] if contestant["role"] == role]


def test_loader_compares_training_and_centre_crops_with_every_peer(images, tmp_path, capsys):
    record = run(tmp_path / "out.json", "loader", "--images", images, *TINY)
    assert [comparison["title"] for comparison in record["comparisons"]] == [
        "training crops, 224 px",
        "centre crop, 256 to 224 px",
    ]
    for comparison in record["comparisons"]:
        assert names(comparison, "ours") == ["ours (DALI)"]
        assert names(comparison, "peer") == [
            "torchvision v2 + decode_jpeg",
            "torchvision v2 + decode_jpeg, bytes",
            "torchvision v2 + PIL",
            "timm create_loader",
            *(f"threads of {kind}, bytes" for kind in installed_pools()),
        ]
        for contestant in comparison["contestants"]:
            (only,) = contestant["rounds"]
            assert only["units"] == 8
            assert only["cpu_seconds"] > 0
    shown = capsys.readouterr().out
    assert "images: 8 images, mean" in shown
    assert "the best peer" in shown


def test_evaluate_compares_each_plan_with_what_others_can_do(images, tmp_path):
    record = run(tmp_path / "out.json", "evaluate", "--images", images, *TINY, "--plans", "center224", "10crop")
    peers = {comparison["title"]: names(comparison, "peer") for comparison in record["comparisons"]}
    pools = [f"threads of {kind}" for kind in installed_pools()]
    centre = ["timm's loader", "torchvision v2 + decode_jpeg", *pools]
    ten = ["decoded for every crop", "torchvision TenCrop, decoded once", *pools]
    assert peers == {
        "center224 (1 crop), reading alone, 8 images a round": centre,
        "center224 (1 crop), with senet_nano, 4 images a round": centre,
        "10crop (10 crops), reading alone, 8 images a round": ten,
        "10crop (10 crops), with senet_nano, 4 images a round": ten,
    }
    for comparison in record["comparisons"]:
        (units,) = {done["units"] for contestant in comparison["contestants"] for done in contestant["rounds"]}
        assert f" {units} images" in comparison["title"]


def test_cifar_compares_the_input_and_the_training_with_every_peer(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_STEPS_ALONE", 2)
    monkeypatch.setattr(cifar, "_STEPS_TRAINED", {"cpu": 1})
    monkeypatch.setattr(cifar, "all_cells", lambda *_, **__: [Cell("float32", channels_last=True, compile=False)])
    monkeypatch.setattr(torch, "compile", lambda function: function)
    record = run(tmp_path / "out.json", "cifar", "--rounds", "1", "--batch", "4", "--workers", "1")
    alone, training = record["comparisons"]
    assert (alone["title"], names(alone, "ours")) == (
        "padded crops of 32 px, normalised",
        ["ours, NHWC", "ours, NCHW"],
    )
    assert names(alone, "peer") == [
        *(f"plain loop, {how} {layout}" for how in ("eager", "compiled") for layout in ("NHWC", "NCHW")),
        "torchvision and DataLoader",
    ]
    assert training["title"] == "training preresnet_nano"
    assert names(training, "ours") == ["ours, eager NHWC float32"]
    assert names(training, "peer") == ["plain loop, eager NHWC float32", "DataLoader, eager NHWC float32"]
    for comparison, units in ((alone, 8), (training, 4)):
        assert {done["units"] for one in comparison["contestants"] for done in one["rounds"]} == {units}


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_input_of_cifar_gives_padded_crops_of_the_same_pixels(channels_last):
    """The plain loop pads bytes, so that its border is black, as torchvision's is; inside of the image all agree."""
    index = noise(64)
    cpu = torch.device("cpu")
    inside = {
        float(value) for value in (torch.from_numpy(index.source.pixels[..., 0]).float().sub(125.3).div(63.0)).unique()
    }
    for batches in (
        our_batches(index, 16, cpu, channels_last),
        plain_batches(index, 16, cpu, channels_last, compiled=False),
        torchvision_batches(index, 16, workers=0),
    ):
        seen = [images for images, _ in batches(2)]
        assert [images.shape for images in seen] == [(16, 3, 32, 32)] * 2
        central = torch.cat(seen)[:, 0, 8:24, 8:24]
        assert central.std() > 0.5
        assert {round(value, 3) for value in central.unique().tolist()} <= {round(value, 3) for value in inside}


@pytest.mark.parametrize(
    ("crops", "alone", "with_network"), [(1, 256, 64), (10, 78, 19), (50, 19, 4), (144, 8, 4), (3000, 8, 4)]
)
def test_plans_of_many_crops_take_fewer_images_a_round(crops, alone, with_network):
    assert images_per_round(256, crops, with_network=False) == alone
    assert images_per_round(256, crops, with_network=True) == with_network
    assert images_per_round(3, crops, with_network=False) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU there are more ways, and they take longer")
def test_step_compares_the_small_network_with_a_plain_loop_of_the_same_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "_STEPS_PER_ROUND", {"senet_nano": 1})
    record = run(tmp_path / "out.json", "step", "--rounds", "1", "--models", "senet_nano")
    for comparison, layout in zip(record["comparisons"], ("NHWC", "NCHW"), strict=True):
        assert comparison["title"] == f"senet_nano, batch 64, 32 px, cpu, eager {layout} float32"
        assert names(comparison, "ours") == [f"ours, eager {layout} float32"]
        assert names(comparison, "peer") == [f"the same in a plain loop, eager {layout} float32"]


def test_checkpoint_compares_the_stall_and_the_steps_beside_it_and_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    record = run(tmp_path / "out.json", "checkpoint", "--rounds", "1", "--model", "senet_nano", "--directory", folder)
    alone, beside, as_of_a_gpu = record["comparisons"]
    assert [comparison["ratio_of"] for comparison in record["comparisons"]] == ["stall ms", "s added", "s added"]
    for comparison in record["comparisons"]:
        assert names(comparison, "peer") == ["torch.save, flushed and renamed"]
    assert beside["title"] == "20 steps of 2 images of 32 px, with one checkpoint in them"
    for contestant in alone["contestants"]:
        assert contestant["s until on disk"]["median"] > 0
    assert re.fullmatch(
        r"20 steps of \S+ s as of a GPU, which the host launches and waits for, with one checkpoint in them",
        as_of_a_gpu["title"],
    )
    for contestant in beside["contestants"] + as_of_a_gpu["contestants"]:
        assert contestant["s without"]["median"] > 0
    assert list(folder.iterdir()) == []


def test_startup_measures_processes_of_their_own():
    comparison = compare_answers(rounds=1, progress=lambda text: None, modules=("json",))
    assert [measurement.name for measurement in comparison.measurements] == ["launch --help", "import json"]
    assert all(measurement.rounds[0].cpu_seconds > 0 for measurement in comparison.measurements)


def test_startup_finds_the_first_step_of_ours_and_of_a_plain_script():
    comparison = compare_first_steps(rounds=1, warm_up=0, with_cold=False, progress=lambda text: None)
    for measurement in comparison.measurements:
        (only,) = measurement.rounds
        # The process goes on after its first step.
        assert 0 < only.figures["s to the first step"] < only.wall_seconds, measurement.name


def test_cold_is_a_python_that_has_compiled_nothing_yet(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    code = "import colorsys, importlib.util\nprint(importlib.util.cache_from_source(colorsys.__file__), flush=True)"

    def compiled(environment: dict[str, str]) -> Path:
        """Where a Python and its child keep a compiled module of which they found none before."""
        (folder,) = map(Path, environment.values())
        assert list(folder.iterdir()) == []
        parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
        command = [sys.executable, "-c", parent, code]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        file = Path(done.stdout.strip())
        assert file.is_file()
        assert file.is_relative_to(folder)
        return file

    assert compiled(cold_start(tmp_path)) != compiled(cold_start(tmp_path))


def test_startup_begins_every_cold_round_cold_and_every_round_of_ours_in_a_directory_of_its_own(monkeypatch):
    warm: list[int] = []
    cold: list[tuple[int, Path]] = []

    def our_first_step(run: Path, number: int, environment: dict[str, str]) -> Work:
        if environment:
            (folder,) = map(Path, environment.values())
            assert list(folder.iterdir()) == []
            cold.append((number, folder))
        else:
            warm.append(number)
        return Work(1, {"s to the first step": 1.0})

    monkeypatch.setattr(startup, "_demo_run", lambda: contextlib.nullcontext((Path("run"), Path("images"))))
    monkeypatch.setattr(startup, "_our_first_step", our_first_step)
    monkeypatch.setattr(startup, "_plain_first_step", lambda images: Work(1, {"s to the first step": 1.0}))
    comparison = compare_first_steps(rounds=2, progress=lambda text: None)
    roles = {measurement.name: measurement.role for measurement in comparison.measurements}
    assert roles == {"ours, stage train by launch": "ours", "plain PyTorch script": "peer", "ours, cold": "other"}
    assert len(warm) == len(cold) == 3
    numbers, folders = zip(*cold, strict=True)
    assert len({*warm, *numbers}) == 6
    assert len(set(folders)) == 3
    assert not any(folder.exists() for folder in folders)


def test_the_record_says_where_when_and_how(tmp_path):
    record = run(tmp_path / "out.json", "checkpoint", "--rounds", "1", "--model", "senet_nano")
    assert (record["format"], record["benchmark"]) == (1, "checkpoint")
    machine = record["machine"]
    assert {"time", "processor", "cores", "load_average", "command", "git", "python", "gpu"} <= machine.keys()
    assert machine["packages"]["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loader", "--images", "nowhere"], "--images: nowhere is neither a folder nor a tar file"),
        (["loader", "--out", "nowhere/out.json"], "--out: nowhere is no folder"),
        (["evaluate", "--plans", "12crop", "--batch", "4"], "--plans: no built-in crop plan '12crop'"),
        (
            ["step", "--models", "resnet"],
            "--models: there is no step of 'resnet' here (there are: senet_nano, senet154)",
        ),
        (["evaluate", "--model", "resnet", "--batch", "4"], "there is no network 'resnet'"),
        (["checkpoint", "--model", "resnet"], "there is no network 'resnet'"),
        (["checkpoint", "--directory", "nowhere"], "--directory: nowhere is no folder"),
    ],
)
def test_mistakes_end_with_2_and_one_clear_line(arguments, message, capsys):
    assert bench.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_record_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench._BENCHMARKS, "checkpoint", lambda arguments: ({}, []))
    assert bench.main(["checkpoint", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path}: this is a folder, not a file")


def test_without_timm_it_is_said_what_to_install(images, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    assert bench.main(["loader", "--images", str(images), *TINY]) == 2
    told = "this benchmark compares with timm, which is not installed: pip install timm\n"
    assert capsys.readouterr().err == told


def test_help_and_mistakes_on_the_command_line_need_neither_torch_nor_time():
    code = (
        "import runpy, sys; sys.argv = ['bench', '--help']\n"
        "try: runpy.run_module('pipeline.bench', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "{step,loader,evaluate,cifar,checkpoint,startup,growth,gpu}" in done.stdout
    assert done.stdout.endswith("[]\n")
