"""The report's numbers as tables of plain values, for Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.reporting.calibration import Calibration
from pipeline.reporting.record import RunRecord
from pipeline.reporting.results import ResultRow

MAX_PREDICTIONS = 10_000
"""W&B shows no more rows of a table."""

Table = dict[str, list[Any]]


def report_tables(
    record: RunRecord,
    rows: Sequence[ResultRow],
    calibrations: Mapping[str, Calibration],
    mistakes: Sequence[Mapping[str, Any]],
) -> dict[str, Table]:
    """Return results, members of the fusion, predictions and the surest mistakes, each as {"columns": [...], "rows":
    [[...], ...]}."""
    return {
        "results": results_table(rows, calibrations),
        "ensemble": ensemble_table(record.fusion),
        "predictions": predictions_table(record),
        "mistakes": mistakes_table(mistakes),
    }


def results_table(rows: Sequence[ResultRow], calibrations: Mapping[str, Calibration]) -> Table:
    """Return a row for each crop plan and one for the fusion."""
    columns = ["crop_plan", "crops", "images", "top1_error_percent", "top5_error_percent"]
    columns += [
        "paper_top1_error_percent",
        "paper_top5_error_percent",
        "images_per_second",
        "calibration_error_percent",
        "restricted_top1_error_percent",
    ]
    return {
        "columns": columns,
        "rows": [
            [
                row.plan,
                row.num_crops,
                row.images,
                row.top1.percent,
                None if row.top5 is None else row.top5.percent,
                None if row.paper is None else row.paper.top1_percent,
                None if row.paper is None else row.paper.top5_percent,
                row.images / row.seconds if row.seconds else None,
                calibrations[row.plan].error_percent,
                row.restricted_top1_error_percent,
            ]
            for row in rows
        ],
    }


def ensemble_table(fusion: Mapping[str, Any]) -> Table:
    """Return a row for each member of the fusion; a gain is by how much the error is higher without it."""
    columns = ["member", "weight", "top1_error_percent", "top5_error_percent", "top1_gain_percent", "top5_gain_percent"]
    rows = []
    for member in fusion["members"]:
        gain = member["gain"]
        errors = [member["alone"][k]["percent"] if k in member["alone"] else None for k in ("top1", "top5")]
        gains = [gain[k]["percent"] if gain and k in gain else None for k in ("top1", "top5")]
        rows.append([member["name"], member["weight"], *errors, *gains])
    return {"columns": columns, "rows": rows}


def mistakes_table(mistakes: Sequence[Mapping[str, Any]]) -> Table:
    """Return the surest mistakes, each with its picture as a data: URI, or None if the image is gone."""
    columns = ["picture", "true", "predicted", "percent", "image"]
    rows = [
        [
            found["picture"],
            *(found[name].words or found[name].folder for name in ("true", "predicted")),
            round(found["percent"], 2),
            found["path"].encode("utf-8", "backslashreplace").decode(),
        ]
        for found in mistakes
    ]
    return {"columns": columns, "rows": rows}


def predictions_table(record: RunRecord) -> Table:
    """Return the prediction for each validation image under the first crop plan, or for an even choice of very many."""
    ranking, val = next(iter(record.rankings.values())), record.val
    positions = np.arange(0, len(val), max(1, math.ceil(len(val) / MAX_PREDICTIONS)))
    names = [image_class.words or image_class.folder for image_class in val.classes]
    return {
        "columns": ["image", "true", "predicted", "probability", "rank_of_true"],
        "rows": [
            [
                val.names[position].encode("utf-8", "backslashreplace").decode(),
                names[ranking.labels[position]],
                names[ranking.predicted[position]],
                round(float(probability), 6) if np.isfinite(probability := ranking.probability[position]) else None,
                int(ranking.ranks[position]) + 1,
            ]
            for position in positions.tolist()
        ],
    }
