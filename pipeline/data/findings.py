"""What `prepare` has to say about files, and the table it says it in."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from pipeline.data.index import ImageRecord
from pipeline.store.file import write_bytes

FINDINGS = "findings.tsv"
_COLUMNS = ("split", "path", "finding", "severity", "detail")

Severity = Literal["error", "warning", "notice"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One remark about one file. Errors stop the stage; warnings and notices are listed."""

    split: str
    path: str
    """Relative to the split's folder, with forward slashes."""
    finding: str
    severity: Severity
    detail: str

    @property
    def name(self) -> str:
        """The file as `data.exclude` names it."""
        return f"{self.split}/{self.path}"


def write_findings(directory: Path, findings: Iterable[Finding]) -> str:
    """Write findings.tsv, errors first, then by split and path; returns its name. Paths and details are JSON."""
    order = {"error": 0, "warning": 1, "notice": 2}
    rows = ["\t".join(_COLUMNS)]
    for found in sorted(findings, key=lambda found: (order[found.severity], found.split, found.path, found.finding)):
        path, detail = (json.dumps(text, ensure_ascii=False) for text in (found.path, found.detail))
        rows.append("\t".join((found.split, path, found.finding, found.severity, detail)))
    write_bytes(directory / FINDINGS, ("\n".join(rows) + "\n").encode("utf-8", "surrogateescape"))
    return FINDINGS


def read_findings(directory: Path) -> list[Finding]:
    """The findings that `write_findings` wrote."""
    lines = (directory / FINDINGS).read_bytes().decode("utf-8", "surrogateescape").split("\n")[1:-1]
    findings = []
    for line in lines:
        split, path, finding, severity, detail = line.split("\t")
        findings.append(Finding(split, json.loads(path), finding, cast(Severity, severity), json.loads(detail)))
    return findings


def count_findings(findings: Iterable[Finding]) -> dict[str, int]:
    """How many there are of each kind, by name."""
    return dict(sorted(collections.Counter(found.finding for found in findings).items()))


def find_duplicates(records: Mapping[str, Sequence[ImageRecord]]) -> list[Finding]:
    """Warnings about files whose bytes are those of an earlier one, in the order of the splits given and of their rows.

    duplicate_across_splits weighs most: such a validation image was trained on. duplicate_across_classes: one of the
    two labels is wrong. duplicate: the same image twice in one class.
    """
    counts = collections.Counter(record.sha256 for rows in records.values() for record in rows)
    repeated = {digest for digest, count in counts.items() if count > 1}
    del counts
    first: dict[str, tuple[str, ImageRecord]] = {}
    findings = []
    for split, rows in records.items():
        for record in rows:
            if record.sha256 not in repeated:
                continue
            if record.sha256 not in first:
                first[record.sha256] = (split, record)
                continue
            other_split, other = first[record.sha256]
            if other_split != split:
                kind = "duplicate_across_splits"
            elif other.label != record.label:
                kind = "duplicate_across_classes"
            else:
                kind = "duplicate"
            detail = f"the same bytes as {other_split}/{other.path}"
            findings.append(Finding(split, record.path, kind, "warning", detail))
    return findings
