from __future__ import annotations

import os
from pathlib import Path

from pipeline.data.findings import Finding, count_findings, find_duplicates, read_findings, write_findings
from pipeline.data.index import ImageRecord


def record(path: str, label: int, sha256: str) -> ImageRecord:
    return ImageRecord(path, label, 1, 1, 1, sha256)


def test_findings_read_back_with_errors_first_whatever_the_order_given(tmp_path: Path) -> None:
    findings = [
        Finding("val", "a/2.jpg", "cmyk", "notice", "x"),
        Finding("train", "b/tab\t.jpg", "duplicate", "warning", 'the "same"\nbytes'),
        Finding("val", os.fsdecode(b"a/\xff.jpg"), "empty", "error", "0 bytes"),
        Finding("train", "a/1.jpg", "corrupt", "error", ""),
    ]
    assert write_findings(tmp_path, findings) == "findings.tsv"
    assert read_findings(tmp_path) == [findings[3], findings[2], findings[1], findings[0]]
    written = (tmp_path / "findings.tsv").read_bytes()
    write_findings(tmp_path, findings[::-1])
    assert (tmp_path / "findings.tsv").read_bytes() == written
    assert count_findings(findings) == {"cmyk": 1, "corrupt": 1, "duplicate": 1, "empty": 1}


def test_duplicates_are_told_apart_by_split_and_class() -> None:
    records = {
        "train": [record("a/1", 0, "A"), record("a/2", 0, "A"), record("b/1", 1, "A"), record("b/2", 1, "B")],
        "val": [record("a/1", 0, "C"), record("b/9", 1, "B"), record("a/3", 0, "C")],
    }
    assert [(found.name, found.finding, found.severity, found.detail) for found in find_duplicates(records)] == [
        ("train/a/2", "duplicate", "warning", "the same bytes as train/a/1"),
        ("train/b/1", "duplicate_across_classes", "warning", "the same bytes as train/a/1"),
        ("val/b/9", "duplicate_across_splits", "warning", "the same bytes as train/b/2"),
        ("val/a/3", "duplicate", "warning", "the same bytes as val/a/1"),
    ]
