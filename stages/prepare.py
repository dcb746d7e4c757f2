"""Check every image, once, and write the index that all loaders read."""

from __future__ import annotations

import collections
import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.findings import FINDINGS, Finding, count_findings, find_duplicates, write_findings
from pipeline.data.index import ImageRecord, write_dataset
from pipeline.data.layout import Layout, lay_out
from pipeline.data.scan import Chunk, plan_chunks, read_inspections, scan
from pipeline.data.shard_places import ShardPlaces
from pipeline.data.shards import plan_shards, read_shards, write_shards
from pipeline.data.tree import join_path
from pipeline.ground.cores import count_cores
from pipeline.ground.errors import UserError
from pipeline.running.context import StageContext, StageResult

_PARTS = "scan"
_DIGITS = "images"
_ERRORS_SHOWN = 20
_PROGRESS_SECONDS = 0.5


def run(context: StageContext) -> StageResult:
    """Write dataset.json, train.tsv, val.tsv, perhaps test.tsv, findings.tsv, and the shards that the config asks for.

    UserError where the data are not what the config promises, or an image is bad that `data.exclude` does not name;
    findings.tsv then has the whole list. A scan that was stopped or killed goes on where it was.
    """
    config = context.config
    layout = lay_out(config.data, config.model.num_classes, context.directory / _DIGITS)
    parts = context.directory / _PARTS
    chunks = {split: plan_chunks(tree.root, tree.folders, parts) for split, tree in layout.trees.items()}
    _scan(context, [chunk for split_chunks in chunks.values() for chunk in split_chunks], parts)
    records: dict[str, list[ImageRecord]] = {}
    findings = list(layout.findings)
    for split in chunks:
        records[split], found = _judge(split, chunks[split], layout)
        findings += found
    if config.data.dataset == "imagenet":
        # In the order of the images' numbers whether the folder is flat or has one for each class: so are the scores.
        records["val"].sort(key=lambda record: record.path.rpartition("/")[2])
    findings += find_duplicates(records)
    outputs = [write_findings(context.directory, findings)]
    _refuse_bad_images(findings, config.data.exclude, context.directory / outputs[0])
    _tell(context, findings)
    roots = {split: tree.root for split, tree in layout.trees.items()}
    metrics = _metrics(layout, records, findings)
    places = None
    if config.data.shards is not None:
        records, places = _write_shards(context, Path(config.data.shards), roots, records)
    outputs += write_dataset(context.directory, config.data.dataset, layout.classes, roots, records, places)
    shutil.rmtree(parts)
    return StageResult(outputs, metrics)


def _scan(context: StageContext, chunks: Sequence[Chunk], parts: Path) -> None:
    scan(chunks, parts, context.stop, _progress(context, "checking every image"), count_cores())


def _write_shards(
    context: StageContext, folder: Path, roots: Mapping[str, Path], records: Mapping[str, list[ImageRecord]]
) -> tuple[dict[str, list[ImageRecord]], dict[str, ShardPlaces]]:
    """The images as they are in the shards, and where they lie there. Only training images are ever resized."""
    resize_px = {split: context.config.data.resize_train_px if split == "train" else None for split in records}
    shards = {split: plan_shards(folder, split, roots[split], records[split], resize_px[split]) for split in records}
    everything = [shard for split_shards in shards.values() for shard in split_shards]
    progress = _progress(context, "writing shards")
    write_shards(
        folder,
        everything,
        context.stop,
        progress,
        lambda text: context.events.show("note", level="info", text=text),
        count_cores(),
    )
    stored = {split: read_shards(split_shards) for split, split_shards in shards.items()}
    return {split: rows for split, (rows, _) in stored.items()}, {split: where for split, (_, where) in stored.items()}


def _progress(context: StageContext, text: str) -> Callable[[int, int, float], None]:
    shown = -_PROGRESS_SECONDS

    def show(done: int, total: int, rate: float) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown >= _PROGRESS_SECONDS:
            shown = time.monotonic()
            context.events.show("progress", done=done, total=total, unit="images", rate=rate, text=text)

    return show


def _judge(split: str, chunks: Sequence[Chunk], layout: Layout) -> tuple[list[ImageRecord], list[Finding]]:
    """Index rows of the good images, and findings about the bad and the odd ones, in the order of the files."""
    records, findings = [], []
    for chunk, inspections in read_inspections(chunks):
        for name, image in inspections.items():
            path = join_path(chunk.folder, name)
            if image.finding:
                findings.append(Finding(split, path, image.finding, "error", image.detail))
                continue
            label = layout.label_of(split, chunk.folder, name)
            records.append(
                ImageRecord(path, label, image.num_bytes, image.width, image.height, image.sha256, image.flags)
            )
            if "cmyk" in image.flags:
                findings.append(Finding(split, path, "cmyk", "notice", "all decoders read it alike"))
            inside = {"png", "webp"}.intersection(image.flags)
            if inside and name.lower().endswith((".jpg", ".jpeg")):
                findings.append(Finding(split, path, "not_jpeg_inside", "notice", f"it is a {inside.pop().upper()}"))
    return records, findings


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
        text = f"findings of kind {finding}: {count:,} (listed in {context.directory / FINDINGS})"
        context.events.show("note", level="warning", text=text)


def _metrics(
    layout: Layout, records: Mapping[str, Sequence[ImageRecord]], findings: Sequence[Finding]
) -> dict[str, Any]:
    flags = collections.Counter(flag for rows in records.values() for record in rows for flag in record.flags)
    return {
        **{f"{split}_images": len(rows) for split, rows in records.items()},
        "classes": len(layout.classes),
        "findings": count_findings(findings),
        "flags": dict(sorted(flags.items())),
    }
