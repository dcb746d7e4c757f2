"""Gates as the stage `activations` leaves them, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.evaluation.gates import BlockGates
from pipeline.reporting.gates import Gates, read_gates
from pipeline.store.file import write_json

PAPERS = ("n01443537", "n02110958", "n03954731", "n09246464")
STAGE_BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
"""Blocks of each stage of SE-ResNet-50."""


def measured(folder: Path, classes: Sequence[str] = PAPERS, blocks: dict[int, int] | None = None) -> Gates:
    """Gates as the stage leaves them, of blocks with 60 channels."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    found = []
    for stage, count in (blocks or STAGE_BLOCKS).items():
        for number in range(1, count + 1):
            mean, std = (generator.random((len(classes), 60), np.float32) / np.float32(part) for part in (1, 9))
            label = f"SE_{stage}_{number}"
            found.append(BlockGates(label, label, stage, 450, mean, std, mean.mean(0), std.mean(0), 1.25, 7.5))
    np.savez(folder / "gates.npz", allow_pickle=False, **{k: v for each in found for k, v in each.arrays().items()})
    last = [block.label for block in found if block.stage == found[-1].stage]
    errors = {"as trained": {"top1_error_percent": 20.0}, "with fixed gates": {"top1_error_percent": 20.25}}
    figures = {
        "plan": "center224",
        "images": 200,
        "near": 0.05,
        "classes": [{"folder": folder, "words": f"{folder} words, other", "images": 50} for folder in classes],
        "blocks": [block.summary() for block in found],
        "left_out": {
            "blocks": last,
            "parameters": 450 * len(last),
            "parameters_of_all_blocks": 450 * len(found),
            "errors": errors,
        },
    }
    write_json(folder / "gates.json", figures)
    return read_gates(folder)
