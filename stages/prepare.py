"""Check every image of a split, once, and write the index that all loaders read."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config.data import DataConfig
from pipeline.data.cifar_versions import describe_checksum
from pipeline.data.findings import FINDINGS, Finding, Severity, count_findings, find_duplicates, write_findings
from pipeline.data.index import FLAGS, ImageIndex, make_index, read_index, write_index
from pipeline.data.layout import Layout, lay_out
from pipeline.data.parquet import copy_parquet
from pipeline.data.pixels import index_pixels
from pipeline.data.places import write_places
from pipeline.data.recognition import Place, check_places, holds_out, place_of
from pipeline.data.scan import Chunk, plan_chunks, read_inspections, scan
from pipeline.data.shards import plan_shards, read_shards, write_shards
from pipeline.data.source import DIGITS, locate, place_name
from pipeline.data.tree import name_some
from pipeline.ground.cores import count_cores
from pipeline.ground.counting import counted
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
    check_places(data, wanted)
    place = None if data.dataset == "digits" else place_of(data, split)
    if place is not None and place.kind == "parquet":
        _copy_parquet(context, place)
    layout = lay_out(data, split, wanted, directory / DIGITS)
    if place is not None:
        context.note(_describe(data, place, layout))
    if layout.dataset != data.dataset:
        context.note(
            f"{split}: {counted(len(layout.names), 'image')} of {counted(len(layout.classes), 'class')}, not all of "
            "ILSVRC 2012's: taken as they are, since nothing is to be trained"
        )
    index, found = _index(context, layout)
    findings = layout.findings + found
    if index is not None:
        others = [part.directory for name, part in wanted.items() if name != split and part.is_done]
        findings += find_duplicates(index, [read_index(other) for other in others])
    outputs = [write_findings(directory, findings)]
    _refuse_bad_images(findings, data.exclude, directory / FINDINGS)
    if index is None:
        raise UserError(f"data.{split}: no image is left (listed in {directory / FINDINGS})")
    _refuse_empty_classes(index, layout, directory / FINDINGS)
    _tell(context, findings, len(layout.names) - len(index))
    metrics = {
        f"{split}_images": len(index),
        "classes": len(index.classes),
        "findings": count_findings(findings),
        "flags": index.count_flags(),
    }
    if data.shards is not None:
        index = _in_shards(context, Path(data.shards), index)
    elif index.source is not None and index.source.places is not None:
        write_places(directory, index.digest, index.source.places, index.source.layout)
    outputs += write_index(directory, index)
    note_images(directory, split, place_name(locate(index, directory, data)))
    if not data.is_cifar:
        shutil.rmtree(directory / _CHUNKS)
    return StageResult(outputs, metrics, {split: index.digest})


def _describe(data: DataConfig, place: Place, layout: Layout) -> str:
    """One line: what was recognised, and what of it is said nowhere else."""
    is_flat = place.kind == "folders" and layout.source.layout == "flat"
    where = f"files in {os.path.abspath(place.path)}" if is_flat else str(place)
    said = [f"{layout.split}: {counted(len(layout.names), 'image')}, {where}"]
    if place.kind == "cifar":
        said.append(describe_checksum(place.path, data.dataset))
    if layout.labels_from is not None:
        said.append(f"labels from {layout.labels_from}")
    if layout.split != "test" and data.val_fraction is not None:
        if holds_out(data):
            share = f"{100 * data.val_fraction:g} % of each class are held out for validation"
            said.append(f"{share} (data.val_fraction, data.split_seed={data.split_seed})")
        elif layout.split == "val":
            said.append("there are validation images, so data.val_fraction does nothing")
    if not layout.has_names:
        said.append("this format has dropped the images' names: the index, and so their order, is one of its own")
    return "; ".join(said)


def _copy_parquet(context: StageContext, place: Place) -> None:
    folder = Path(context.config.data.shards or "")
    text = f"copying the {place.split} images from parquet files to {folder}"
    progress = _progress(context, text, "files")
    copy_parquet(place.split, place.files, folder, context.stop, progress, context.note, count_cores())


def _in_shards(context: StageContext, folder: Path, index: ImageIndex) -> ImageIndex:
    """Return the index of the images as they are in the shards. Only training images are ever resized."""
    resize_px = context.config.data.resize_train_px if index.split == "train" else None
    source = index.source
    if source is not None and source.places is not None and source.layout == "shards" and resize_px is None:
        write_places(context.directory, index.digest, source.places)
        return index
    shards = plan_shards(folder, index, resize_px)
    progress = _progress(context, f"writing shards of the {index.split} images")
    write_shards(folder, shards, context.stop, progress, context.note, count_cores())
    stored, places = read_shards(shards, index)
    write_places(context.directory, stored.digest, places)
    return stored


def _progress(context: StageContext, text: str, unit: str = "images") -> Callable[[int, int, float], None]:
    shown = -_PROGRESS_SECONDS

    def show(done: int, total: int, rate: float) -> None:
        nonlocal shown
        if done == total or time.monotonic() - shown >= _PROGRESS_SECONDS:
            shown = time.monotonic()
            context.events.show("progress", done=done, total=total, unit=unit, rate=rate, text=text)

    return show


def _index(context: StageContext, layout: Layout) -> tuple[ImageIndex | None, list[Finding]]:
    """Check every image. Returns the index of the good ones, or None, and findings about the others."""
    if layout.source.read_pixels is not None:
        return index_pixels(layout), []
    folder = context.directory / _CHUNKS
    chunks = plan_chunks(layout, folder)
    progress = _progress(context, f"checking every {layout.split} image")
    scan(chunks, folder, context.stop, progress, context.note, count_cores())
    return _judge(chunks, layout, context.config.data.unusable)


def _judge(
    chunks: Sequence[Chunk], layout: Layout, unusable: Literal["stop", "skip"]
) -> tuple[ImageIndex | None, list[Finding]]:
    """Return the index of the good images, or None, and findings about the bad and the odd ones."""
    rows, findings = [], []
    row = -1  # of the layout, which the chunks follow
    for chunk, inspections in read_inspections(chunks):
        for name, image in zip(chunk.names, inspections, strict=True):
            row += 1
            if image.finding:
                severity: Severity = "error" if unusable == "stop" else "warning"
                findings.append(Finding(layout.split, name, image.finding, severity, image.detail))
                continue
            flags = sum(1 << FLAGS.index(flag) for flag in image.flags)
            rows.append((name, chunk.label, image.num_bytes, image.width, image.height, image.sha256, flags, row))
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
    names, labels, num_bytes, widths, heights, sha256, flags_of, kept = zip(*rows, strict=True)
    digests = np.frombuffer(bytes.fromhex("".join(sha256)), dtype=np.uint8)
    index = make_index(
        layout.split, layout.dataset, layout.classes, names, labels, num_bytes, widths, heights, digests, flags_of
    )
    return dataclasses.replace(index, source=layout.take(kept).source), findings


def _refuse_empty_classes(index: ImageIndex, layout: Layout, table: Path) -> None:
    """Raises UserError if a class that had images has none that can be used."""
    lost = set(layout.labels) - set(index.labels.tolist())
    if lost:
        folders = name_some([layout.classes[label].folder for label in lost])
        raise UserError(
            f"data.unusable: skip leaves no image in {folders} of {layout.split} (listed in {table}); repair some, or "
            "move these class folders away"
        )


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
        f"data: {counted(len(bad), 'image')} cannot be used (listed in {table}):\n"
        + "\n".join(lines)
        + "\nrepair them and run the same command again, or leave out whatever cannot be used with data.unusable=skip, "
        + f"or leave them out: {way_out}"
    )


def _tell(context: StageContext, findings: Sequence[Finding], skipped: int) -> None:
    table = context.directory / FINDINGS
    if passed_over := [found for found in findings if found.finding == "ignored"]:
        first = passed_over[0].name.encode("utf-8", "backslashreplace").decode()  # it may have any name
        what = f"{len(passed_over):,} passed over that are no images, {first} the first"
        context.note(f"{what} (listed in {table})")
    if skipped:
        context.note(f"{counted(skipped, 'image')} left out, which cannot be used (listed in {table})", "warning")
    counts = collections.Counter(found.finding for found in findings if found.severity == "warning")
    for finding, count in sorted(counts.items()):
        context.note(f"findings of kind {finding}: {count:,} (listed in {table})", "warning")
