"""The summary of all rows in Markdown. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bench.gpu.rows import ROWS

_HIDDEN = {"cell"}


def as_markdown(record: Mapping[str, Any]) -> str:
    """Return device, versions and outcomes, then a table for each row that has figures."""
    machine = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    cuda = f"CUDA {machine['cuda']}, cuDNN {machine['cudnn']}"
    rows: dict[str, dict[str, Any]] = record["rows"]
    parts = [
        f"{machine['gpu'] or 'no GPU'}, {machine['cores']} cores of {machine['processor']}, {cuda}, "
        f"Python {machine['python']}, {packages}; {machine['time']}; `{' '.join(machine['command'])}`",
        _table([_outcome(name, row) for name, row in rows.items()]),
    ]
    for name, row in rows.items():
        if row["figures"]:
            parts.append(f"### {ROWS[name].title.capitalize()}")
            parts.append(_table(row["figures"]))
    return "\n\n".join(parts) + "\n"


def _outcome(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": ROWS[name].title, "outcome": row["outcome"], "s": row["seconds"], "limit, s": row["limit"]}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [column for column in dict.fromkeys(key for row in rows for key in row) if column not in _HIDDEN]
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = value["median"]
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")
