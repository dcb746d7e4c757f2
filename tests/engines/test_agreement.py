"""Every engine against a plain loop: the same weights, bit for bit wherever gradients are summed in the same order."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from tests.engines.jobs import GLOBAL_BATCH, Job, JobResults, Result, new_model
from tests.engines.plain_loop import plain_loop

pytestmark = pytest.mark.timeout(600)

SMALL = 2e-5
"""A learning rate at which rounding errors stay small for all steps."""


def sections(micro_batch: int, zero_stage: int | None = None, **execution: Any) -> dict[str, Any]:
    """Of a recipe. Contiguous weights: DeepSpeed has no others, and another layout rounds otherwise."""
    engine = {} if zero_stage is None else {"engine": "deepspeed", "deepspeed": {"zero_stage": zero_stage}}
    return {**engine, "train": {"max_micro_batch": micro_batch}, "execution": {"channels_last": False, **execution}}


def job(name: str) -> Job:
    """`ENGINE-WORLDxACCUMULATION`."""
    engine, shape = name.split("-")
    world_size, accumulation = map(int, shape.split("x"))
    return Job(name, sections(GLOBAL_BATCH // world_size // accumulation, ENGINES[engine]))


ENGINES = {"native": None, "zero0": 0, "zero1": 1, "zero2": 2}
ALONE = ["native-1x1", "native-1x4", "zero1-1x4"]
PAIRS = [f"{engine}-2x{accumulation}" for engine in ENGINES for accumulation in (1, 4)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> JobResults:
    groups = [(1, [job(name)]) for name in ALONE]
    for name, zero_stage in ENGINES.items():
        compressed = sections(GLOBAL_BATCH // 2, zero_stage, gradient_compression="bfloat16")
        pairs = [job(f"{name}-2x1"), job(f"{name}-2x4"), Job(f"{name}-compressed", compressed, last_step=1)]
        if name == "zero1":
            synchronised = sections(GLOBAL_BATCH // 2, zero_stage, sync_bn=True)
            pairs.append(Job("zero1-sync", synchronised, last_step=1, dropout=0.0))
        groups.append((2, pairs))
    for accumulation in (1, 4):
        four = dataclasses.replace(job(f"native-4x{accumulation}"), lr=SMALL)
        groups.append((4, [four, dataclasses.replace(job(four.name), name=f"{four.name}-first", last_step=1)]))
    synchronised = sections(GLOBAL_BATCH // 4, sync_bn=True)
    groups.append((4, [Job("native-sync-first", synchronised, last_step=1, dropout=0.0)]))
    groups.append((4, [Job("native-sync", synchronised, dropout=0.0, lr=SMALL)]))
    return JobResults(tmp_path_factory.mktemp("jobs"), groups)


def distance(plain: nn.Module, result: Result) -> float:
    """Between the two sets of weights, as a share of the way that training has come."""
    start = dict(new_model().named_parameters())
    ends = {name: parameter.detach() for name, parameter in plain.named_parameters()}
    between = sum(float((ends[name] - result.model[name]).double().square().sum()) for name in ends)
    come = sum(float((ends[name] - start[name].detach()).double().square().sum()) for name in ends)
    return (between / come) ** 0.5


@pytest.mark.parametrize("name", ALONE + PAIRS)
def test_engine_is_the_plain_loop_bit_for_bit(results: JobResults, name: str) -> None:
    """With up to two processes every sum has one order, and shares of a power of two are exact: no tolerance."""
    engine, shape = name.split("-")
    world_size, accumulation = map(int, shape.split("x"))
    expected = plain_loop(world_size, accumulation, processes_first=engine == "zero2" and accumulation > 1).state_dict()
    found = results.of(name).model
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("accumulation", [1, 4])
def test_four_processes_are_the_plain_loop_but_for_the_order_of_sums(results: JobResults, accumulation: int) -> None:
    """Four processes add in an order of their own: in one step that rounds some 1e-7 of each gradient otherwise.

    In 50 steps ReLUs and max pooling that switch at such differences multiply them, the more the larger the steps, so
    the steps here are small: the plain loop itself ends half a percent away from where it ends after a change of its
    initial weights by 1e-7 of themselves. Gradients wrongly scaled, clipped or summed would be at a distance near 1.
    """
    assert distance(plain_loop(4, accumulation, steps=1), results.of(f"native-4x{accumulation}-first")) < 1e-4
    found = distance(plain_loop(4, accumulation, lr=SMALL), results.of(f"native-4x{accumulation}"))
    assert found < 0.03


@pytest.mark.parametrize("name", ENGINES)
def test_compressed_gradients_are_the_plain_ones_to_bfloat16(results: JobResults, name: str) -> None:
    """A gradient is off by at most 2^-9 of itself, twice, since it is rounded before and after the sum."""
    found = distance(plain_loop(2, 1, steps=1), results.of(f"{name}-compressed"))
    assert 2**-12 < found < 2**-7


@pytest.mark.parametrize("name", ["native-sync-first", "zero1-sync"])
def test_synchronised_batch_norms_make_one_batch_of_all_processes(results: JobResults, name: str) -> None:
    """Two and four processes take the step of one process that has all images, statistics included; its sums are in
    another order."""
    plain = plain_loop(1, 1, steps=1, dropout=0.0)
    result = results.of(name)
    assert distance(plain, result) < 1e-4
    for key, value in plain.named_buffers():
        torch.testing.assert_close(result.model[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_four_processes_with_synchronised_batch_norms_agree_with_one_after_all_steps(results: JobResults) -> None:
    """By the measure of `test_four_processes_are_the_plain_loop_but_for_the_order_of_sums`."""
    found = distance(plain_loop(dropout=0.0, lr=SMALL), results.of("native-sync"))
    assert found < 0.03


def test_every_process_holds_the_same_weights_and_statistics_of_its_own(results: JobResults) -> None:
    for name in ("native-2x1", "zero2-2x4"):
        one, other = results.of(name, rank=0).model, results.of(name, rank=1).model
        for key, value in one.items():
            is_statistic = "running" in key
            assert torch.equal(value, other[key]) != is_statistic, key
