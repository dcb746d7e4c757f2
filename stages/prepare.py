"""Check every image of a split, once, and write the index that all loaders read."""

from __future__ import annotations

import collections
import dataclasses
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.findings import FINDINGS, Finding, count_findings, find_duplicates, write_findings
from pipeline.data.index import FLAGS, ImageIndex, make_index, read_index, write_index
from pipeline.data.layout import Layout, lay_out
from pipeline.data.places import write_places
from pipeline.data.scan import Chunk, plan_chunks, read_inspections, scan
from pipeline.data.shards import plan_shards, read_shards, write_shards
from pipeline.data.source import DIGITS, locate, place_name
from pipeline.ground.cores import count_cores
from pipeline.ground.errors import UserError
from pipeline.running.attempts import note_images
from pipeline.running.context import StageContext, StageResult

_CHUNKS = "scan"
_ERRORS_SHOWN = 20
_PROGRESS_SECONDS = 0.5


def run(context: StageContext) -> StageResult:
    """Write the index of the part's split and findings.tsv, and the shards if the config asks for them.

    Raises UserError if the images of any split of the run contradict the config, or an image of this one is bad and
    `data.exclude` does not name it; findings.tsv then has the whole list. An interrupted scan is resumed.
    """
    data, directory, split = context.config.data, context.directory, context.part.split
    assert split is not None
    wanted = {part.split: part for part in context.siblings.values() if part.split is not None}
    layout = lay_out(data, split, wanted, directory / DIGITS)
    chunks = plan_chunks(layout, directory / _CHUNKS)
    progress = _progress(context, f"checking every {split} image")
    scan(chunks, directory / _CHUNKS, context.stop, progress, context.note, count_cores())
    index, found = _judge(chunks, layout)
    findings = layout.findings + found
    if index is not None:
        others = [part.directory for name, part in wanted.items() if name != split and part.is_done]
        findings += find_duplicates(index, [read_index(other) for other in others])
    outputs = [write_findings(directory, findings)]
    _refuse_bad_images(findings, data.exclude, directory / FINDINGS)
    assert index is not None
    _tell(context, findings)
    metrics = {
        f"{split}_images": len(index),
        "classes": len(index.classes),
        "findings": count_findings(findings),
        "flags": index.count_flags(),
    }
    if data.shards is not None:
        index = _write_shards(context, Path(data.shards), index)
    outputs += write_index(directory, index)
    note_images(directory, split, place_name(locate(index, directory, data)))
    shutil.rmtree(directory / _CHUNKS)
    return StageResult(outputs, metrics, {split: index.digest})


def _write_shards(context: StageContext, folder: Path, index: ImageIndex) -> ImageIndex:
    """Write the shards and return the index of the images in them. Only training images are ever resized."""
    shards = plan_shards(folder, index, context.config.data.resize_train_px if index.split == "train" else None)
    progress = _progress(context, f"writing shards of the {index.split} images")
    write_shards(folder, shards, context.stop, progress, context.note, count_cores())
    stored, places = read_shards(shards, index)
    write_places(context.directory, stored.digest, places)
    return stored


def _progress(context: StageContext, text: str) -> Callable[[int, int, float], None]:
    shown = -_PROGRESS_SECONDS

    def show(done: int, total: int, rate: float) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown >= _PROGRESS_SECONDS:
            shown = time.monotonic()
            context.events.show("progress", done=done, total=total, unit="images", rate=rate, text=text)

    return show


def _judge(chunks: Sequence[Chunk], layout: Layout) -> tuple[ImageIndex | None, list[Finding]]:
    """Return the index of the good images, if there are any; and findings about the bad and the odd ones."""
    rows, findings = [], []
    for chunk, inspections in read_inspections(chunks):
        for name, image in zip(chunk.names, inspections, strict=True):
            if image.finding:
                findings.append(Finding(layout.split, name, image.finding, "error", image.detail))
                continue
            flags = sum(1 << FLAGS.index(flag) for flag in image.flags)
            rows.append((name, chunk.label, image.num_bytes, image.width, image.height, image.sha256, flags))
            if "cmyk" in image.flags:
                findings.append(Finding(layout.split, name, "cmyk", "notice", "all decoders read it alike"))
            inside = {"png", "webp"}.intersection(image.flags)
            if inside and name.lower().endswith((".jpg", ".jpeg")):
                kind = f"it is a {inside.pop().upper()}"
                findings.append(Finding(layout.split, name, "not_jpeg_inside", "notice", kind))
    if not rows:
        return None, findings
    if layout.dataset == "imagenet" and layout.split == "val":
        # In the order of the images' numbers for any layout of the folder: so are the scores.
        rows.sort(key=lambda row: row[0].rpartition("/")[2])
    names, labels, num_bytes, widths, heights, sha256, flags_of = zip(*rows, strict=True)
    digests = np.frombuffer(bytes.fromhex("".join(sha256)), dtype=np.uint8)
    index = make_index(
        layout.split, layout.dataset, layout.classes, names, labels, num_bytes, widths, heights, digests, flags_of
    )
    return dataclasses.replace(index, source=layout.source), findings


def _refuse_bad_images(findings: Sequence[Finding], excluded: Sequence[str], table: Path) -> None:
    bad = [found for found in findings if found.severity == "error"]
    if not bad:
        return
    lines = [f"  {found.name}: {found.finding} ({found.detail})" for found in bad[:_ERRORS_SHOWN]]
    if len(bad) > _ERRORS_SHOWN:
        lines.append(f"  ... and {len(bad) - _ERRORS_SHOWN:,} more")
        way_out = f"name them all in data.exclude, as in {bad[0].name}"
    else:
        way_out = shlex.quote("data.exclude=" + json.dumps([*excluded, *(found.name for found in bad)]))
    raise UserError(
        f"data: {len(bad):,} image{'' if len(bad) == 1 else 's'} cannot be used (listed in {table}):\n"
        + "\n".join(lines)
        + f"\nrepair them and run the same command again, or leave them out: {way_out}"
    )


def _tell(context: StageContext, findings: Sequence[Finding]) -> None:
    counts = collections.Counter(found.finding for found in findings if found.severity == "warning")
    for finding, count in sorted(counts.items()):
        context.note(f"findings of kind {finding}: {count:,} (listed in {context.directory / FINDINGS})", "warning")
