from __future__ import annotations

import pytest

from pipeline.bench.roofline import Peaks, layer_traffic, training_floor_seconds
from pipeline.networks.layers import layer_table

SENET154 = layer_table("senet154")


def test_a_block_reads_and_writes_what_perfect_fusion_leaves():
    """In maps of the block's output: forward 1/2 + 3/2 + 2 + 3 = 7, backward 3 + 3 + 4 + 2 = 12."""
    table = {layer.name: layer for layer in SENET154}
    block = [table[f"layer3.19.{part}"] for part in ("conv1", "conv2", "conv3", "sum")]
    one = 2 * 1024 * 14 * 14
    traffic = [layer_traffic(layer, table) for layer in block]
    assert [forward / one for forward, _ in traffic] == [0.5, 1.5, 2, 3]
    assert [backward / one for _, backward in traffic] == [3, 3, 4, 2]


def test_all_layers_together_move_564_mb_an_image():
    table = {layer.name: layer for layer in SENET154}
    forward, backward = (
        sum(part) for part in zip(*(layer_traffic(layer, table) for layer in table.values()), strict=True)
    )
    assert (forward / 1e6, backward / 1e6) == (pytest.approx(205.6, abs=0.1), pytest.approx(358.3, abs=0.1))


def test_the_floor_is_arithmetic_where_memory_is_free_and_memory_where_arithmetic_is():
    flops = 3 * 2 * 20.69e9
    only_arithmetic = training_floor_seconds(SENET154, 8, Peaks(1e12, 1e30))
    # The classifier and the gates are left out of the traffic, and with them next to nothing of the arithmetic.
    assert only_arithmetic == pytest.approx(8 * flops / 1e12, rel=1e-3)
    only_memory = training_floor_seconds(SENET154, 8, Peaks(1e30, 1e12))
    assert only_memory == pytest.approx((8 * 563.9e6 + 115_088_984 * 24) / 1e12, rel=1e-3)
