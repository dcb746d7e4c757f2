"""What the W&B client wrote to a `.wandb` file: LevelDB's log format, 32 KiB blocks of records of protobuf messages."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
FULL, LAST = 1, 4


def read_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Every record, its checksum verified."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        left_in_block = BLOCK - position % BLOCK
        if left_in_block < 7:
            position += left_in_block
            continue
        checksum, size, kind = struct.unpack_from("<IHB", content, position)
        data = content[position + 7 : position + 7 + size]
        assert checksum == zlib.crc32(bytes([kind]) + data), "the file is damaged"
        position += 7 + size
        parts += data
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged, without the client's own columns."""
    rows = []
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            rows.append({key: json.loads(value) for key, value in items.items() if not key.startswith("_")})
    return rows


def read_artifacts(path: Path) -> list[wandb_internal_pb2.ArtifactRecord]:
    """The artifacts that were logged."""
    return [record.artifact for record in read_records(path) if record.WhichOneof("record_type") == "artifact"]


def read_console(path: Path) -> str:
    """What the process printed."""
    return "".join(record.output_raw.line for record in read_records(path) if record.HasField("output_raw"))


def read_run(path: Path) -> wandb_internal_pb2.RunRecord:
    """The run's description."""
    return next(record.run for record in read_records(path) if record.WhichOneof("record_type") == "run")


def read_summary(path: Path) -> dict[str, Any]:
    """The final value of every summary item."""
    summary: dict[str, Any] = {}
    for record in read_records(path):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return summary


def read_exit_code(path: Path) -> int | None:
    """What the run's end said; None where it has no end."""
    codes = [record.exit.exit_code for record in read_records(path) if record.WhichOneof("record_type") == "exit"]
    return codes[-1] if codes else None


def metric_definitions(path: Path) -> dict[str, str]:
    """The step metric of every metric that was defined, by name or pattern."""
    return {
        record.metric.name or record.metric.glob_name: record.metric.step_metric
        for record in read_records(path)
        if record.WhichOneof("record_type") == "metric"
    }
