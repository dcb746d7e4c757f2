"""Every engine against a plain loop: the same weights, bit for bit wherever gradients are summed in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.engines.jobs import GLOBAL_BATCH, Job, Result, new_model, result_of, run_jobs
from tests.engines.plain_loop import plain_loop

pytestmark = pytest.mark.timeout(600)

SMALL = 2e-5
"""A learning rate at which rounding errors stay small for all steps."""


def sections(micro_batch: int, zero_stage: int | None = None, **execution: Any) -> dict[str, Any]:
    """Of a recipe. Contiguous weights: DeepSpeed has no others, and another layout rounds otherwise."""
    engine = {} if zero_stage is None else {"engine": "deepspeed", "deepspeed": {"zero_stage": zero_stage}}
    return {**engine, "train": {"max_micro_batch": micro_batch}, "execution": {"channels_last": False, **execution}}


def job(name: str, world_size: int, accumulation: int, zero_stage: int | None = None) -> Job:
    return Job(name, sections(GLOBAL_BATCH // world_size // accumulation, zero_stage))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the results of all jobs: one group of processes for each number of them."""
    folder = tmp_path_factory.mktemp("jobs")
    run_jobs(folder, 1, [job("native-1x1", 1, 1), job("native-1x4", 1, 4), job("zero1-1x4", 1, 4, 1)])
    pairs = [job(f"native-2x{accumulation}", 2, accumulation) for accumulation in (1, 4)]
    pairs += [job(f"zero{stage}-2x{steps}", 2, steps, stage) for stage in (0, 1, 2) for steps in (1, 4)]
    compressed = {"gradient_compression": "bfloat16"}
    for name, stage in {"native": None, "zero0": 0, "zero1": 1, "zero2": 2}.items():
        pairs.append(Job(f"{name}-compressed", sections(8, stage, **compressed), last_step=1))
    synchronised = sections(GLOBAL_BATCH // 2, 1, sync_bn=True)
    pairs.append(Job("zero1-sync", synchronised, last_step=1, dropout=0.0))
    run_jobs(folder, 2, pairs)
    fours = [Job(f"native-4x{steps}", sections(GLOBAL_BATCH // 4 // steps), lr=SMALL) for steps in (1, 4)]
    fours += [Job(f"{one.name}-first", one.sections, last_step=1) for one in fours]
    synchronised = sections(GLOBAL_BATCH // 4, sync_bn=True)
    fours.append(Job("native-sync-first", synchronised, last_step=1, dropout=0.0))
    fours.append(Job("native-sync", synchronised, dropout=0.0, lr=SMALL))
    run_jobs(folder, 4, fours)
    return folder


def distance(plain: nn.Module, result: Result) -> float:
    """Between the two sets of weights, as a share of the way that training has come."""
    start = dict(new_model().named_parameters())
    ends = {name: parameter.detach() for name, parameter in plain.named_parameters()}
    between = sum(float((ends[name] - result.model[name]).double().square().sum()) for name in ends)
    come = sum(float((ends[name] - start[name].detach()).double().square().sum()) for name in ends)
    return (between / come) ** 0.5


@pytest.mark.parametrize(
    "name",
    ["native-1x1", "native-1x4", "zero1-1x4", "native-2x1", "native-2x4"]
    + [f"zero{stage}-2x{accumulation}" for stage in (0, 1, 2) for accumulation in (1, 4)],
)
def test_engine_is_the_plain_loop_bit_for_bit(folder: Path, name: str) -> None:
    """With up to two processes every sum has one order, and shares of a power of two are exact: no tolerance."""
    engine, shape = name.split("-")
    world_size, accumulation = map(int, shape.split("x"))
    expected = plain_loop(world_size, accumulation, processes_first=engine == "zero2" and accumulation > 1).state_dict()
    found = result_of(folder, name).model
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("accumulation", [1, 4])
def test_four_processes_are_the_plain_loop_but_for_the_order_of_sums(folder: Path, accumulation: int) -> None:
    """Four processes add in an order of their own: in one step that rounds some 1e-7 of each gradient otherwise.

    In 50 steps ReLUs and max pooling that switch at such differences multiply them, the more the larger the steps, so
    the steps here are small: the plain loop itself ends half a percent away from where it ends after a change of its
    initial weights by 1e-7 of themselves. Gradients wrongly scaled, clipped or summed would be at a distance near 1.
    """
    assert distance(plain_loop(4, accumulation, steps=1), result_of(folder, f"native-4x{accumulation}-first")) < 1e-4
    found = distance(plain_loop(4, accumulation, lr=SMALL), result_of(folder, f"native-4x{accumulation}"))
    assert found < 0.03


@pytest.mark.parametrize("name", ["native", "zero0", "zero1", "zero2"])
def test_compressed_gradients_are_the_plain_ones_to_bfloat16(folder: Path, name: str) -> None:
    """A gradient is off by at most 2^-9 of itself, twice, since it is rounded before and after the sum."""
    found = distance(plain_loop(2, 1, steps=1), result_of(folder, f"{name}-compressed"))
    assert 2**-12 < found < 2**-7


@pytest.mark.parametrize("name", ["native-sync-first", "zero1-sync"])
def test_synchronised_batch_norms_make_one_batch_of_all_processes(folder: Path, name: str) -> None:
    """Two and four processes take the step of one process that has all images, statistics included; its sums are in
    another order."""
    plain = plain_loop(1, 1, steps=1, dropout=0.0)
    result = result_of(folder, name)
    assert distance(plain, result) < 1e-4
    for key, value in plain.named_buffers():
        torch.testing.assert_close(result.model[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_four_processes_with_synchronised_batch_norms_agree_with_one_after_all_steps(folder: Path) -> None:
    """By the measure of `test_four_processes_are_the_plain_loop_but_for_the_order_of_sums`."""
    found = distance(plain_loop(dropout=0.0, lr=SMALL), result_of(folder, "native-sync"))
    assert found < 0.03


def test_every_process_holds_the_same_weights_and_statistics_of_its_own(folder: Path) -> None:
    for name in ("native-2x1", "zero2-2x4"):
        one, other = result_of(folder, name, rank=0).model, result_of(folder, name, rank=1).model
        for key, value in one.items():
            is_statistic = "running" in key
            assert torch.equal(value, other[key]) != is_statistic, key
