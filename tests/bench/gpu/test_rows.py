"""Every row of `bench gpu` on the CPU at toy size: they are for GPUs, but what they do is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bench.gpu import resuming
from pipeline.bench.gpu.rows import ROWS, run_row
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.gpu.steps import fastest
from tests.conftest import REPOSITORY
from tests.engines.cpu_graphs import capture

pytestmark = pytest.mark.slow


def figures_of(name: str, scope: Scope) -> list[dict[str, Any]]:
    """What a row finds, in this process; it must be whole."""
    shown: list[dict[str, Any]] = []
    assert run_row(ROWS[name], scope, shown.append) == 0
    assert all(fields.keys() == {"figures"} for fields in shown), shown
    return [fields["figures"] for fields in shown]


def test_rates_of_matrices_copies_and_transfers(toy: Scope) -> None:
    rows = figures_of("rates", toy)
    assert [row["what"] for row in rows] == [
        "matrix product, bfloat16",
        "copy on the device",
        "roofline of a training step",
        "roofline of a training step",
        "to the device, pageable memory",
        "from the device, pageable memory",
    ]
    assert all(value > 0 for row in rows for value in row.values() if isinstance(value, float))


def test_decoding_is_compared_byte_for_byte(toy: Scope) -> None:
    rows = figures_of("decoding", toy)
    assert [row["fancy upsampling"] for row in rows] == [False, True]
    for row in rows:  # on the CPU both are the same decoder
        assert (row["mean difference"], row["99th percentile"], row["worst"]) == (0, 0, 0)
        assert row["images/s"] > 0


def test_loading_varies_threads_batch_and_depth(toy: Scope) -> None:
    rows = figures_of("loading", toy)
    assert [(row["decode"], row["threads"], row["decode_batch"], row["prefetch_images"]) for row in rows] == [
        ("cpu", 2, 128, 1024),
        ("cpu", 1, 128, 1024),
        ("cpu", 2, toy.batch, 1024),
        ("cpu", 2, 128, 2 * toy.batch),
    ]
    assert all(row["images/s"] > 0 and row["CPU ms an image"] > 0 for row in rows)


def test_the_recipes_step_is_measured_eager_and_with_graphs_that_prove_themselves(
    toy: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engines.cuda_graphs.graph_capture", lambda device: capture)
    rows = figures_of("recipe", toy)
    assert [row["way"] for row in rows] == ["eager NHWC float32", "eager NHWC float32, CUDA graphs"]
    assert all(row["images/s"] > 0 for row in rows)


def test_graphs_that_fail_their_proof_are_an_error_of_the_row(toy: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.cuda_graphs.graph_capture", lambda device: capture)
    monkeypatch.setattr("pipeline.engines.cuda_graphs.disagreement", lambda *_: "the logits, by 0.5 of itself")
    eager, graphs = figures_of("recipe", toy)
    assert "error" not in eager
    assert "CUDA graphs are not to be trusted here: the logits, by 0.5 of itself" in graphs["error"]


def test_layouts_and_types_at_both_batches_and_the_fastest_is_what_later_rows_take(toy: Scope) -> None:
    rows = figures_of("layouts", dataclasses.replace(toy, precisions=("float32", "bfloat16")))
    assert {(row["way"], row["batch"]) for row in rows} == {
        (f"eager {layout} {precision}", batch)
        for layout in ("NCHW", "NHWC")
        for precision in ("float32", "bfloat16")
        for batch in (4, 8)
    }
    best = fastest([*rows, {"network": "ours", "error": "out of memory"}])
    assert best is not None
    cell, batch = dataclasses.replace(toy, best=best).fastest
    speeds = {(row["way"], row["batch"]): row["images/s"] for row in rows}
    assert speeds[str(cell), batch] == max(speeds.values())
    assert fastest([{"error": "out of memory"}]) is None


def test_kernels_are_those_of_a_step_the_slowest_first(toy: Scope) -> None:
    rows = figures_of("kernels", toy)
    assert len(rows) > 10
    taken = [row["us a step"] for row in rows]
    assert taken == sorted(taken, reverse=True)
    assert any("convolution" in row["kernel"] for row in rows)


def test_grouped_convolutions_of_two_stages_in_both_layouts_and_all_directions(toy: Scope) -> None:
    rows = figures_of("convolutions", toy)
    assert [row["layout"] for row in rows] == ["NCHW", "NHWC"] * 2
    assert len({row["shape"] for row in rows}) == 2
    for row in rows:
        assert all(row[f"{way} us"] > 0 for way in ("forward", "input gradient", "weight gradient"))


def test_resuming_compares_the_end_bit_for_bit(toy: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "_in_new_process", resuming.train)
    rows = figures_of("resuming", toy)
    assert [row["cuDNN's choice fixed"] for row in rows] == [True, False]
    assert all(row["bit-identical"] and row["distance"] == 0 for row in rows)


def test_resuming_sees_a_run_that_went_another_way(toy: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(scope: Scope, checkpoints: Path, start: Path | None, is_fixed: bool) -> float:
        torch.manual_seed(1)
        other = scope if start is None else dataclasses.replace(scope, precisions=("bfloat16",))
        return original(other, checkpoints, start, is_fixed)

    original = resuming.train
    monkeypatch.setattr(resuming, "_in_new_process", train)
    row = next(resuming.measure_resuming(toy))
    assert not row["bit-identical"]
    assert row["tensors that differ"] > 10
    assert 0 < row["distance"] < 1


def test_a_test_that_skips_itself_has_not_passed(toy: Scope) -> None:
    skipping = Scope("unused").tests[:1]
    passed, skipped = figures_of("tests", dataclasses.replace(toy, tests=(*toy.tests, *skipping)))
    assert passed["outcome"] == "passed"
    if not torch.cuda.is_available():
        assert skipped["error"].startswith("SKIPPED")
        assert "needs a CUDA device" in skipped["error"]


def test_the_tests_that_are_named_exist() -> None:
    for test in Scope("unused").tests:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (REPOSITORY / path).read_text()


def test_the_fastest_step_is_compiled_by_block(toy: Scope) -> None:
    best = {"cell": {"precision": "float32", "channels_last": False, "compile": False}, "batch": 8}
    (row,) = figures_of("compiled", dataclasses.replace(toy, best=best))
    assert (row["way"], row["batch"]) == ("compiled NCHW float32", 4)
    assert row["images/s"] > 0


def test_scoring_counts_the_waits_of_a_pass(toy: Scope) -> None:
    (row,) = figures_of("scoring", toy)
    assert (row["plan"], row["images"], row["waits of the network"]) == ("center64", 8, 0)
    assert row["images/s"] > 0


def test_saving_has_the_figures_of_the_comparison(toy: Scope) -> None:
    rows = figures_of("saving", toy)
    assert [row["contestant"] for row in rows] == ["ours", "torch.save, flushed and renamed"]
    assert all(row["s until on disk"] > 0 for row in rows)
