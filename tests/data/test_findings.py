from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from pipeline.data.findings import Finding, count_findings, find_duplicates, read_findings, write_findings
from pipeline.data.index import ImageIndex, make_index


def rows(split: str, *images: tuple[str, int, str]) -> ImageIndex:
    """Of images given by name, label and content."""
    names, labels, contents = zip(*images, strict=True)
    sha256 = [list(hashlib.sha256(content.encode()).digest()) for content in contents]
    ones = [1] * len(images)
    return make_index(split, "x", (), names, labels, ones, ones, ones, sha256, [0] * len(images))


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
    train = rows("train", ("a/1", 0, "A"), ("a/2", 0, "A"), ("b/1", 1, "A"), ("b/2", 1, "B"))
    val = rows("val", ("a/1", 0, "C"), ("b/9", 1, "B"), ("a/3", 0, "C"))
    found = [*find_duplicates(train, []), *find_duplicates(val, [train])]
    assert [(each.name, each.finding, each.severity, each.detail) for each in found] == [
        ("train/a/2", "duplicate", "warning", "the same bytes as train/a/1"),
        ("train/b/1", "duplicate_across_classes", "warning", "the same bytes as train/a/1"),
        ("val/b/9", "duplicate_across_splits", "warning", "the same bytes as train/b/2"),
        ("val/a/3", "duplicate", "warning", "the same bytes as val/a/1"),
    ]


def test_content_decides_and_not_its_first_bytes() -> None:
    val = rows("val", ("a/1", 0, "A"), ("a/2", 0, "B"))
    sha256 = val.sha256.copy()
    sha256[1, :8] = sha256[0, :8]
    assert find_duplicates(dataclasses.replace(val, sha256=sha256), []) == []
