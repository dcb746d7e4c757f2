"""Drawings of crop plans: an image at each of the plan's scales, and its crops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.config.crop_plan import CropPlan
from pipeline.data.crop import Crop, resized_sizes
from pipeline.evaluation.expansion import expand

_GAP = 0.15
"""Between two scales, as a share of the largest."""


def crop_drawing(plan: CropPlan, width: int, height: int) -> str:
    """Return the crops of an image of that size as an SVG element, scale beside scale. Mirrored crops are not drawn."""
    scales: dict[int, list[Crop]] = {}
    for planned in expand(plan):
        scales.setdefault(planned.crop.resize_px, []).append(planned.crop)
    heights, widths, left, drawn = np.array([height]), np.array([width]), 0, ""
    sizes = [(crops, *resized_sizes(heights, widths, px)) for px, crops in sorted(scales.items())]
    tallest = max(int(high[0]) for _, high, _ in sizes)
    for crops, high, wide in sizes:
        rectangles = "".join(_rectangles(crops, high, wide))
        drawn += f'<g transform="translate({left} {tallest - int(high[0])})">{rectangles}</g>'
        left += int(wide[0]) + round(_GAP * tallest)
    size = f"0 0 {left - round(_GAP * tallest)} {tallest}"
    return f'<svg class="crops" viewBox="{size}" aria-hidden="true">{drawn}</svg>'


def _rectangles(crops: list[Crop], high: np.ndarray, wide: np.ndarray) -> Iterator[str]:
    yield f'<rect width="{wide[0]}" height="{high[0]}"/>'
    for crop in crops:
        if crop.region_px is None:
            yield f'<rect class="crop" width="{wide[0]}" height="{high[0]}"/>'
        else:
            ((top, left),) = crop.anchors(high, wide).tolist()
            yield f'<rect class="crop" x="{left}" y="{top}" width="{crop.region_px}" height="{crop.region_px}"/>'
