"""The errors of a run beside the paper's, as rows."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.config.crop_plan import CropGroup, CropPlan
from pipeline.evaluation.bootstrap import Interval, wilson
from pipeline.evaluation.ensemble import FUSED_PLAN
from pipeline.networks.registry import NETWORKS
from pipeline.paper.statements import Errors, find_errors
from pipeline.reporting.record import RunRecord


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """The errors under one crop plan, or of several fused."""

    plan: str
    crops: str
    """In words."""
    images: int
    num_crops: int
    top1_errors: int
    """Number of images that are wrong in top-1."""
    top5_errors: int | None
    """None of five classes or fewer."""
    restricted_top1_error_percent: float | None
    """Among the classes that have images; None if all have."""
    seconds: float
    paper: Errors | None

    @property
    def top1(self) -> Interval:
        """Top-1 error with its interval."""
        return wilson(self.top1_errors, self.images)

    @property
    def top5(self) -> Interval | None:
        """Top-5 error with its interval; None of five classes or fewer."""
        return None if self.top5_errors is None else wilson(self.top5_errors, self.images)


def result_rows(record: RunRecord) -> tuple[ResultRow, ...]:
    """Return a row for each plan, with the paper's errors if it has them, and one for the fusion."""
    plans = {plan.name: plan for plan in record.config.evaluate.plans}
    rows = tuple(_row(record, plans[result["name"]], result) for result in record.results["plans"])
    return (*rows, _fused_row(record, rows))


def _fused_row(record: RunRecord, rows: tuple[ResultRow, ...]) -> ResultRow:
    members = [member for member in record.fusion["members"] if member["weight"] > 0]
    crops = {row.plan: row.num_crops for row in rows}
    own = [member for member in members if member["weights_sha256"] == record.results["weights"]["sha256"]]
    ranking = record.rankings[FUSED_PLAN]
    return ResultRow(
        plan=FUSED_PLAN,
        crops=f"the mean of {', '.join(member['name'] for member in members)}",
        images=record.fusion["images"],
        # The plans of other networks are not known here; each has at least one crop.
        num_crops=sum(crops.get(member["plan"], 1) if member in own else 1 for member in members),
        top1_errors=ranking.errors(1),
        top5_errors=ranking.errors(5) if "top5" in record.fusion["errors"] else None,
        restricted_top1_error_percent=record.fusion.get("restricted", {}).get("restricted_top1_error_percent"),
        seconds=sum(member["seconds"] for member in members),
        paper=None,
    )


def _row(record: RunRecord, plan: CropPlan, result: dict[str, Any]) -> ResultRow:
    return ResultRow(
        plan=plan.name,
        crops=describe_crops(plan),
        images=result["images"],
        num_crops=result["crops"],
        top1_errors=result["top1_errors"],
        top5_errors=result.get("top5_errors"),
        restricted_top1_error_percent=result.get("restricted_top1_error_percent"),
        seconds=result["seconds"],
        paper=_paper_errors(record, plan),
    )


def _paper_errors(record: RunRecord, plan: CropPlan) -> Errors | None:
    crop = plan.center_crop
    if not record.is_comparable or crop is None:
        return None
    # Foreign weights are taken to be trained at the network's own size, as the published ones are.
    model = record.config.model.name
    trained_px = record.config.train.image_size_px if record.is_trained else NETWORKS[model].image_size_px
    return find_errors(model, trained_px, *crop)


def describe_crops(plan: CropPlan) -> str:
    """Describe a plan as in `centre 224 of 256 px`; crops that differ in size alone are grouped."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for group in plan.crops:
        size = f"{group.resize_px}" if group.crop_px is None else f"{group.crop_px} of {group.resize_px}"
        groups.setdefault((_places(group), group.mirror), []).append(size)
    words = "; ".join(
        f"{places} {', '.join(sizes)} px{', and mirrored' if mirror else ''}"
        for (places, mirror), sizes in groups.items()
    )
    return words if plan.averaging == "probabilities" else f"{words}; logits averaged"


def _places(group: CropGroup) -> str:
    if group.dense is not None:
        return "all of the image at" if group.dense == "global" else "7 x 7 windows of the last map at"
    return f"7 x 7 windows of the last map of {_crops(group)}" if group.pooling == "sliding" else _crops(group)


def _crops(group: CropGroup) -> str:
    positions = _positions(group.positions)
    if not group.squares:
        return positions
    count = {1: f"the {group.squares[0]} square", 2: f"the {' and '.join(group.squares)} squares", 3: "3 squares"}
    squares = count[len(group.squares)]
    return squares if group.crop_px == group.resize_px else f"{positions} of {squares},"


def _positions(positions: tuple[str, ...]) -> str:
    corners = [position for position in positions if position not in ("center", "whole")]
    others = [name for position, name in (("center", "centre"), ("whole", "whole")) if position in positions]
    if len(corners) < 4:
        return ", ".join(position.replace("_", " ").replace("center", "centre") for position in positions)
    *first, last = ["4 corners", *others]
    return f"{', '.join(first)} and {last}" if first else last
