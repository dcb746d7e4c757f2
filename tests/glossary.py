"""The glossary: words of the project, in the words of the docstrings and keys that they stand for."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from pipeline.config.documentation import key_entries
from tests.conftest import REPOSITORY

_TITLE = """# Glossary

Made from docstrings and keys by `python -m tests.config.pinned`.

| term | meaning | see |
| --- | --- | --- |
"""
_TERMS = {
    "attempt": "pipeline/running/attempts.py",
    "background writer": "pipeline/training/background_writer.py",
    "block": "pipeline/models/network.py:Block",
    "canonical name": "pipeline/data/canonical.py",
    "check": "pipeline/config/section.py:Kind.CHECK",
    "checkpoint": "pipeline/training/checkpoint.py",
    "crop plan": "pipeline/config/crop_plan.py:CropPlan",
    "engine": "pipeline/engines/engine.py:Engine",
    "event": "pipeline/tracking/events.py",
    "frozen batch norm": "pipeline/models/batch_norm.py:FrozenBatchNorm2d",
    "fusion": "pipeline/evaluation/ensemble.py",
    "gates": "pipeline/models/se.py:SEModule",
    "global batch": "train.global_batch",
    "identity": "pipeline/config/identity.py",
    "index": "pipeline/data/index.py",
    "journal": "pipeline/store/journal.py",
    "key": "pipeline/running/stage.py:Part.key",
    "margin": "pipeline/evaluation/margins.py",
    "micro-batch": "train.max_micro_batch",
    "operation": "pipeline/config/section.py:Kind.OPERATION",
    "part": "pipeline/running/stage.py:Part",
    "place": "pipeline/data/places.py",
    "profile": "launch/slurm/profile.py",
    "result": "pipeline/config/section.py:Kind.RESULT",
    "seal": "pipeline/store/seal.py",
    "shards": "pipeline/data/shards.py",
    "stage": "pipeline/running/stage.py:Stage",
    "stream": "pipeline/data/order.py",
    "warm-up": "schedule.warmup_epochs",
    "world size": "pipeline/ground/ranks.py:Ranks.world_size",
}


def glossary_page() -> str:
    """The whole document."""
    meanings = {entry.name: entry.meaning for entry in key_entries()}
    rows = []
    for term, place in _TERMS.items():
        path, _, name = place.partition(":")
        if path in meanings:
            rows.append(f"| {term} | {meanings[path]} | [`{path}`](keys.md) |\n")
        else:
            rows.append(f"| {term} | {_docstring(REPOSITORY / path, name)} | [`{path}`](../{path}) |\n")
    return _TITLE + "".join(rows)


def _docstring(path: Path, name: str) -> str:
    """The first paragraph of a module's docstring, of a class's, or of that below a class's attribute."""
    body = ast.parse(path.read_text()).body
    for part in filter(None, name.split(".")):
        (position,) = [number for number, node in enumerate(body) if part in _names(node)]
        node = body[position]
        body = node.body if isinstance(node, ast.ClassDef) else body[position + 1 :]
    first = body[0]
    assert isinstance(first, ast.Expr)
    assert isinstance(first.value, ast.Constant), f"{path}: {name} has no docstring"
    lines = str(first.value.value).strip().splitlines()
    return " ".join(line.strip() for line in itertools.takewhile(str.strip, lines)).replace("|", r"\|")


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [target.id for target in targets if isinstance(target, ast.Name)]
