from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from pipeline.bench.cell import Cell
from pipeline.bench.step import our_step
from pipeline.bench.training_step import Task, plain_step
from pipeline.models import create_model
from tests.engines.cpu_graphs import capture
from tests.engines.jobs import stand_in

pytestmark = pytest.mark.slow

TASK = Task("senet_nano", 10, 32, 4, torch.device("cpu"))
NHWC = Cell("float32", channels_last=True, compile=False)


def test_ours_and_the_plain_loop_begin_with_the_same_work():
    model = create_model(TASK.model, TASK.num_classes, dropout=0.0)
    losses = {float(plain_step(TASK, copy.deepcopy(model), NHWC)()) for _ in range(2)}
    assert len(losses) == 1
    # Ours drops out a fifth of the features, which the plain loop's copy here does not.
    assert float(our_step(TASK, NHWC)()) == pytest.approx(losses.pop(), rel=0.3)


def test_our_step_with_cuda_graphs_does_the_same_work():
    graphs = dataclasses.replace(NHWC, cuda_graphs=True)
    with stand_in(capture):
        graphed = our_step(TASK, graphs)
    plain = our_step(TASK, NHWC)
    losses = []
    for step in (plain, graphed):
        torch.manual_seed(0)
        losses.append([float(step()) for _ in range(3)])
    assert losses[0] == losses[1]


def test_a_step_learns():
    step = plain_step(TASK, create_model(TASK.model, TASK.num_classes, dropout=0.0), NHWC)
    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_compiled_way_runs_what_the_compiler_returns():
    model = create_model(TASK.model, TASK.num_classes)
    calls = []

    def compiler(network):
        def forward(images):
            calls.append(images.shape)
            return network(images)

        return forward

    plain_step(TASK, model, Cell("float32", channels_last=False, compile=True), compiler)()
    plain_step(TASK, model, NHWC, compiler)()
    assert calls == [(4, 3, 32, 32)]
