from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.bench import autotune, clock
from pipeline.bench.cell import Cell
from pipeline.bench.step import our_step
from pipeline.bench.training_step import Task
from pipeline.config.reader import load_config
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")


@on_cpu
def test_the_probe_takes_the_recipes_own_step_and_a_small_one_of_a_large_network():
    demo = autotune.probed_task(load_config(CONFIGS / "demo.yaml"))
    assert (demo.model, demo.batch, demo.image_size_px) == ("senet_nano", 64, 32)
    large = autotune.probed_task(load_config(CONFIGS / "senet154_1gpu.yaml"))
    assert (large.model, large.batch, large.image_size_px) == ("senet154", 1, 224)


@on_cpu
def test_without_a_gpu_only_the_recipes_type_is_tried():
    config = load_config(CONFIGS / "senet154_1gpu.yaml")
    assert {cell.precision for cell in autotune.probed_cells(config, torch.device("cpu"))} == {"bfloat16"}
    assert {cell.precision for cell in autotune.probed_cells(config, torch.device("cuda"))} == {"bfloat16", "float16"}


@pytest.mark.parametrize(
    ("overrides", "has_graphs"),
    [
        ([], True),
        (["engine=deepspeed"], False),
        (["execution.sync_bn=true", "freeze_bn.statistics=running"], False),
    ],
)
def test_cuda_graphs_are_tried_in_the_recipes_type_where_its_engine_has_them(overrides, has_graphs):
    config = load_config(CONFIGS / "senet154_1gpu.yaml", overrides)
    graphed = [cell for cell in autotune.probed_cells(config, torch.device("cuda")) if cell.cuda_graphs]
    assert {cell.precision for cell in graphed} == ({"bfloat16"} if has_graphs else set())
    assert not any(cell.cuda_graphs for cell in autotune.probed_cells(config, torch.device("cpu")))


@on_cpu
def test_a_way_that_fails_is_a_finding_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(clock, "_GROUP_SECONDS", 1e-4)
    good, bad = Cell("float32", True, False), Cell("float32", False, False)
    original = our_step

    def step(task, cell):
        if cell == bad:
            raise RuntimeError("out of memory\nand much more")
        return original(task, cell)

    monkeypatch.setattr(autotune, "our_step", step)
    task, graphs = Task("senet_nano", 10, 32, 2, torch.device("cpu")), dataclasses.replace(good, cuda_graphs=True)
    failed, refused, measured = autotune.probe(task, [bad, graphs, good])
    assert (refused.cell, refused.images_per_second) == (graphs, None)
    assert str(refused.problem).startswith("native.cuda_graphs: needs a GPU")
    assert (failed.cell, failed.images_per_second, failed.problem) == (bad, None, "out of memory")
    assert measured.cell == good
    assert (measured.images_per_second or 0) > 0
