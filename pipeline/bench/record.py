"""The record file of a benchmark: results, machine, versions and command."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bench.rounds import Comparison
from pipeline.ground.cores import count_cores
from pipeline.running.provenance import collect_provenance
from pipeline.store.file import write_json

FORMAT = 1
_PEERS = ("timm", "triton")


def describe_machine() -> dict[str, Any]:
    """Return provenance, processor, usable cores, load, threads, and the GPU if torch is imported and sees one."""
    provenance = collect_provenance()
    machine = {
        **provenance,
        "packages": {**provenance["packages"], **{name: _version(name) for name in _PEERS}},
        "processor": _processor(),
        "cores": count_cores(),
        "load_average": list(os.getloadavg()),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        machine["torch_threads"] = torch.get_num_threads()
        machine["cudnn"] = torch.backends.cudnn.version()
        machine["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return machine


def record_of(benchmark: str, settings: Mapping[str, Any], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the whole record as plain values; taken right after measuring, since the machine's load is part of it."""
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "machine": describe_machine(),
        "settings": dict(settings),
        "comparisons": [comparison.as_fields() for comparison in comparisons],
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record to `path`, whose folder must exist."""
    write_json(path, record)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str | None:
    """Return Linux's name of the processor, or None elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
