from __future__ import annotations

import json

from pipeline.networks.layers import Cost, layer_table
from pipeline.networks.summary import format_summary, summarise

BLOCKS = [f"layer{stage}.{block}" for stage, blocks in enumerate((3, 8, 36, 3), start=1) for block in range(blocks)]

NANO = ["layer1.0", "layer2.0", "layer2.1", "layer3.0"]


def test_summary_of_senet154_adds_up() -> None:
    layers = layer_table("senet154", 1000, 320)
    summary, cost = summarise("senet154", layers, 320, BLOCKS), Cost.of(layers)
    for name in ("parameters", "macs", "activation_bytes_float32", "activation_bytes_16bit"):
        assert summary[name] == getattr(cost, name) == sum(part[name] for part in summary["stages"])
    assert summary["weight_bytes"] == 461_346_144
    assert json.loads(json.dumps(summary)) == summary


def test_summary_shows_output_and_blocks_of_each_part() -> None:
    parts = summarise("senet154", layer_table("senet154"), 224, BLOCKS)["stages"]
    assert [(part["stage"], part["blocks"], part["output"]) for part in parts] == [
        ("layer0", 0, [128, 112, 112]),
        ("pool0", 0, [128, 56, 56]),
        ("layer1", 3, [256, 56, 56]),
        ("layer2", 8, [512, 28, 28]),
        ("layer3", 36, [1024, 14, 14]),
        ("layer4", 3, [2048, 7, 7]),
        ("avg_pool", 0, [2048]),
        ("dropout", 0, [2048]),
        ("last_linear", 0, [1000]),
    ]


def test_summary_is_a_table_that_lines_up() -> None:
    assert format_summary(summarise("senet_nano", layer_table("senet_nano", 10), 32, NANO)) == GOLDEN


GOLDEN = """\
senet_nano: 10 classes, images of 32 x 32 px

part         blocks        output  parameters  MMAC  float32 MB  16-bit MB
--------------------------------------------------------------------------
layer0               32 x 16 x 16       7,472   1.9        0.14       0.07
pool0                  32 x 8 x 8           0   0.0        0.02       0.02
layer1            1    64 x 8 x 8       9,348   0.5        0.12       0.06
layer2            2   128 x 4 x 4     133,904   2.2        0.13       0.07
layer3            1   256 x 2 x 2     405,520   1.8        0.04       0.02
avg_pool                      256           0   0.0        0.00       0.00
dropout                       256           0   0.0        0.00       0.00
last_linear                    10       2,570   0.0        0.00       0.00
--------------------------------------------------------------------------
all                                   558,814   6.5        0.46       0.24

MMAC: million multiply-adds for one image. MB: what one image's forward pass keeps for backward."""
