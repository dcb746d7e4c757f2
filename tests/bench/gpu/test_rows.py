"""Every row of `bench gpu` on the CPU at toy size: they are for GPUs, but what they do is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from pipeline.bench.gpu import resuming
from pipeline.bench.gpu.decoding import _pipeline, _summary
from pipeline.bench.gpu.loading import _settings
from pipeline.bench.gpu.rows import ROWS, run_row
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.gpu.steps import fastest
from pipeline.config.operations import LoaderConfig
from pipeline.data.dali_pipeline import decoder_arguments
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
    assert [row["rate"] for row in rows] == [
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


def test_the_decoder_on_a_gpu_is_the_loaders(toy: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[dict[str, Any]] = []

    def decode(files: Any, **arguments: Any) -> Any:
        taken.append(arguments)
        return files

    monkeypatch.setattr(fn.decoders, "image", decode)
    monkeypatch.setattr(Pipeline, "build", lambda pipeline: None)
    _pipeline(toy.image_files(), 8, True, True, dataclasses.replace(toy, device="cuda"))
    assert taken == [decoder_arguments(LoaderConfig(fancy_upsampling=True), 0, may_divide=False)]


def test_differences_of_decoders_are_told_by_their_mean_percentile_and_worst() -> None:
    differences = np.zeros(256, dtype=np.int64)
    differences[[0, 9]] = 1000, 500
    assert _summary(differences) == {"mean difference": 3.0, "99th percentile": 9.0, "worst": 9.0}


def test_loading_varies_one_key_of_the_section_at_a_time(toy: Scope) -> None:
    rows = figures_of("loading", toy)
    base = {"decode": "cpu", "threads": 2}
    for row, varied in zip(rows, ({}, {"threads": 1}, {"decode_batch": 4}, {"prefetch_images": 8}), strict=True):
        assert row.items() >= {**base, **varied}.items()
        assert row["images/s"] > 0
        assert row["CPU ms an image"] > 0


def test_loading_varies_what_concerns_a_gpu_where_there_is_one(toy: Scope) -> None:
    settings = _settings(dataclasses.replace(toy, device="cuda"))
    assert [each["decode"] for each in settings].count("cpu") == 1
    assert {each.get("hw_decoder_load") for each in settings} == {None, 0.0, 0.65}
    for each in settings:
        LoaderConfig.model_validate(each)


def test_the_recipes_step_is_measured_eager_and_with_graphs_that_prove_themselves(
    toy: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engines.cuda_graphs.graph_capture", lambda device: capture)
    rows = figures_of("recipe", toy)
    assert [(row["way"], row["cuDNN searches"]) for row in rows] == [
        ("eager NHWC float32", False),
        ("eager NHWC float32, CUDA graphs", False),
        ("eager NHWC float32", True),
    ]
    assert all(row["images/s"] > 0 for row in rows)


def test_graphs_that_fail_their_proof_are_an_error_of_the_row(toy: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.cuda_graphs.graph_capture", lambda device: capture)
    monkeypatch.setattr("pipeline.engines.cuda_graphs.disagreement", lambda *_: "the logits, by 0.5 of itself")
    eager, graphs, searching = figures_of("recipe", toy)
    assert "error" not in eager | searching
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
    named = Scope("unused").tests
    passed, *skipped = figures_of("tests", dataclasses.replace(toy, tests=(*toy.tests, *named)))
    assert passed["outcome"] == "passed"
    assert [row["test"] for row in skipped] == [test.partition("::")[2] for test in named]
    if not torch.cuda.is_available():
        assert all(row["error"] == "skipped: needs a CUDA device" for row in skipped)


def test_tests_that_are_not_there_are_an_error_of_the_row(toy: Scope) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)pytest ran 0 of 1 tests: .*not found"):
        list(ROWS["tests"].measure(dataclasses.replace(toy, tests=("tests/gpu/test_trainer_on_gpu.py::test_x",))))


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
