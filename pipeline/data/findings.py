"""Findings about images, and the table of them that `prepare` leaves."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from pipeline.data.index import ImageIndex
from pipeline.store.file import write_bytes

FINDINGS = "findings.tsv"
_COLUMNS = ("split", "path", "finding", "severity", "detail")

Severity = Literal["error", "warning", "notice"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One remark about one file. Errors stop the stage; warnings and notices are listed."""

    split: str
    path: str
    """The image's canonical name, or the path below the split's folder of anything else."""
    finding: str
    severity: Severity
    detail: str

    @property
    def name(self) -> str:
        """Return the name that `data.exclude` uses."""
        return f"{self.split}/{self.path}"


def write_findings(directory: Path, findings: Iterable[Finding]) -> str:
    """Write findings.tsv, errors first, then by path; returns its name. Paths and details are JSON."""
    order = {"error": 0, "warning": 1, "notice": 2}
    rows = ["\t".join(_COLUMNS)]
    for found in sorted(findings, key=lambda found: (order[found.severity], found.split, found.path, found.finding)):
        path, detail = (json.dumps(text, ensure_ascii=False) for text in (found.path, found.detail))
        rows.append("\t".join((found.split, path, found.finding, found.severity, detail)))
    write_bytes(directory / FINDINGS, ("\n".join(rows) + "\n").encode("utf-8", "surrogateescape"))
    return FINDINGS


def read_findings(directory: Path) -> list[Finding]:
    """Read findings.tsv."""
    lines = (directory / FINDINGS).read_bytes().decode("utf-8", "surrogateescape").split("\n")[1:-1]
    findings = []
    for line in lines:
        split, path, finding, severity, detail = line.split("\t")
        findings.append(Finding(split, json.loads(path), finding, cast(Severity, severity), json.loads(detail)))
    return findings


def count_findings(findings: Iterable[Finding]) -> dict[str, int]:
    """Count the findings of each kind, by name."""
    return dict(sorted(collections.Counter(found.finding for found in findings).items()))


def find_duplicates(index: ImageIndex, others: Sequence[ImageIndex]) -> list[Finding]:
    """Find images whose bytes are equal to those of another split's image, or of an earlier one; warnings, by row.

    duplicate_across_splits weighs most: such a validation image was trained on. duplicate_across_classes: one of the
    two labels is wrong. duplicate: the same image twice in one class.
    """
    first: dict[bytes, tuple[ImageIndex, int]] = {}
    keys = _keys(index)
    for other in others:
        for position in np.flatnonzero(np.isin(_keys(other), keys)).tolist():
            first.setdefault(other.sha256[position].tobytes(), (other, position))
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    suspects = counts[inverse] > 1
    for other in others:
        suspects |= np.isin(keys, _keys(other))
    findings = []
    for position in np.flatnonzero(suspects).tolist():
        found, place = first.setdefault(index.sha256[position].tobytes(), (index, position))
        if found is index and place == position:
            continue
        if found is not index:
            kind = "duplicate_across_splits"
        elif found.labels[place] != index.labels[position]:
            kind = "duplicate_across_classes"
        else:
            kind = "duplicate"
        detail = f"the same bytes as {found.split}/{found.names[place]}"
        findings.append(Finding(index.split, index.names[position], kind, "warning", detail))
    return findings


def _keys(index: ImageIndex) -> npt.NDArray[np.uint64]:
    """Return the first 8 bytes of each SHA-256, rarely equal by chance among a million images, for a quick first
    comparison."""
    return np.ascontiguousarray(index.sha256[:, :8]).view(np.uint64).ravel()
