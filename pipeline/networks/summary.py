"""A network's cost, stage by stage, for people and for the report. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from pipeline.networks.spec import SENetSpec, layer_table

_COSTS = ("parameters", "macs", "activation_bytes_float32", "activation_bytes_16bit")


def summarise(spec: SENetSpec, num_classes: int, image_size_px: int) -> dict[str, Any]:
    """Return output size and cost of each stage, and the total cost, as plain values.

    `activation_bytes_*` is kept from the forward pass of one image for backward, in float32 and in either 16-bit type;
    `weight_bytes` counts the parameters and running statistics in float32.
    """
    stages: list[dict[str, Any]] = []
    channels = 3
    for name, members in itertools.groupby(layer_table(spec, num_classes, image_size_px), lambda layer: layer.stage):
        layers = tuple(members)
        channels = next((layer.out_channels for layer in reversed(layers) if layer.out_channels), channels)
        stages.append(
            {
                "stage": name,
                "blocks": sum(layer.kind == "scale_add_relu" for layer in layers),
                "output": [channels] if name == "classifier" else [channels, layers[-1].out_size, layers[-1].out_size],
                "parameters": sum(layer.parameters for layer in layers),
                "buffers": sum(layer.buffers for layer in layers),
                "macs": sum(layer.macs for layer in layers),
                "activation_bytes_float32": sum(layer.activation_bytes(4) for layer in layers),
                "activation_bytes_16bit": sum(layer.activation_bytes(2) for layer in layers),
            }
        )
    total = {cost: sum(stage[cost] for stage in stages) for cost in ("buffers", *_COSTS)}
    return {
        "model": spec.name,
        "num_classes": num_classes,
        "image_size_px": image_size_px,
        **total,
        "weight_bytes": 4 * (total["parameters"] + total["buffers"]),
        "stages": stages,
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the summary as a table for a terminal, without a final newline."""
    size = summary["image_size_px"]
    rows: list[tuple[str, ...]] = [("stage", "blocks", "output", "parameters", "MMAC", "float32 MB", "16-bit MB")]
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
