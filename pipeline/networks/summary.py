"""A network's cost, part by part, for people and for the report. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.networks.layers import Cost, Layers

_COSTS = ("parameters", "macs", "activation_bytes_float32", "activation_bytes_16bit")


def summarise(name: str, layers: Layers, image_size_px: int, blocks: Collection[str]) -> dict[str, Any]:
    """Return output size and cost of each part, and the total cost, as plain values.

    `blocks` are the names of the network's blocks. `activation_bytes_*` is kept from the forward pass of one image for
    backward, in float32 and in either 16-bit type; `weight_bytes` counts the parameters and running statistics in
    float32.
    """
    parts: list[dict[str, Any]] = []
    for part, members in itertools.groupby(layers, lambda layer: layer.part):
        inner = tuple(members)
        channels, size = inner[-1].out_channels, inner[-1].out_size
        parts.append(
            {
                "stage": part,
                "blocks": sum(block.partition(".")[0] == part for block in blocks),
                "output": [channels] if size == 1 else [channels, size, size],
                **dataclasses.asdict(Cost.of(inner)),
            }
        )
    total = Cost.of(layers)
    return {
        "model": name,
        "num_classes": layers[-1].out_channels,
        "image_size_px": image_size_px,
        **dataclasses.asdict(total),
        "weight_bytes": 4 * (total.parameters + total.buffers),
        "stages": parts,
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the summary as a table for a terminal, without a final newline."""
    size = summary["image_size_px"]
    rows: list[tuple[str, ...]] = [("part", "blocks", "output", "parameters", "MMAC", "float32 MB", "16-bit MB")]
    for stage in summary["stages"]:
        output = " x ".join(map(str, stage["output"]))
        rows.append((stage["stage"], str(stage["blocks"] or ""), output, *_formatted(stage)))
    rows.append(("all", "", "", *_formatted(summary)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join(
        [
            f"{summary['model']}: {summary['num_classes']} classes, images of {size} x {size} px",
            "",
            lines[0],
            rule,
            *lines[1:-1],
            rule,
            lines[-1],
            "",
            "MMAC: million multiply-adds for one image. MB: what one image's forward pass keeps for backward.",
        ]
    )


def _formatted(costs: Mapping[str, Any]) -> tuple[str, ...]:
    parameters, macs, float32, half = (costs[name] for name in _COSTS)
    return f"{parameters:,}", f"{macs / 1e6:,.1f}", f"{float32 / 1e6:,.2f}", f"{half / 1e6:,.2f}"
