from __future__ import annotations

import json

from pipeline.networks.spec import SPECS, activation_bytes, count_macs, count_parameters
from pipeline.networks.summary import format_summary, summarise


def test_summary_of_senet154_adds_up() -> None:
    spec = SPECS["senet154"]
    summary = summarise(spec, 1000, 320)
    assert summary["parameters"] == count_parameters(spec, 1000) == sum(s["parameters"] for s in summary["stages"])
    assert summary["macs"] == count_macs(spec, 1000, 320) == sum(s["macs"] for s in summary["stages"])
    assert summary["activation_bytes_float32"] == activation_bytes(spec, 320, 4)
    assert summary["activation_bytes_16bit"] == activation_bytes(spec, 320, 2)
    assert summary["weight_bytes"] == 461_346_144
    assert json.loads(json.dumps(summary)) == summary


def test_summary_shows_output_and_blocks_of_each_stage() -> None:
    stages = summarise(SPECS["senet154"], 1000, 224)["stages"]
    assert [(stage["stage"], stage["blocks"], stage["output"]) for stage in stages] == [
        ("conv1", 0, [128, 112, 112]),
        ("pool1", 0, [128, 56, 56]),
        ("conv2", 3, [256, 56, 56]),
        ("conv3", 8, [512, 28, 28]),
        ("conv4", 36, [1024, 14, 14]),
        ("conv5", 3, [2048, 7, 7]),
        ("classifier", 0, [1000]),
    ]


def test_summary_is_a_table_that_lines_up() -> None:
    assert format_summary(summarise(SPECS["senet_nano"], 10, 32)) == GOLDEN


GOLDEN = """\
senet_nano: 10 classes, images of 32 x 32 px

stage       blocks        output  parameters  MMAC  float32 MB  16-bit MB
-------------------------------------------------------------------------
conv1               32 x 16 x 16       7,472   1.9        0.14       0.07
pool1                 32 x 8 x 8           0   0.0        0.02       0.02
conv2            1    64 x 8 x 8       9,348   0.5        0.12       0.06
conv3            2   128 x 4 x 4     133,904   2.2        0.13       0.07
conv4            1   256 x 2 x 2     405,520   1.8        0.04       0.02
classifier                    10       2,570   0.0        0.00       0.00
-------------------------------------------------------------------------
all                                  558,814   6.5        0.46       0.24

MMAC: million multiply-adds for one image. MB: what one image's forward pass keeps for backward."""
