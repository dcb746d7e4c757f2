"""`python -m pipeline.bench.cluster DIR`: measure in one job step what training needs of a cluster.

The processes are those of a training job. Each record of DIR/findings-JOB.jsonl is a subject, what was found, and a
verdict: `ok`, `slow`, `offline`, `missing`, or `-` if it does not apply.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from pipeline.ground.cores import count_cores
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import read_ranks
from pipeline.store.answer import answered
from pipeline.store.file import write_bytes
from pipeline.store.journal import append_record
from pipeline.store.lock import exclusive, lock_holder
from pipeline.tracking.wandb_mode import choose_mode

_MEET_SECONDS = 90
_GRADIENT_BYTES = 460_000_000
"""SENet-154's, in float32."""
_NCCL_LEAST = 5.0
"""GB/s: an all-reduce of the gradients then takes 0.2 s, which the backward pass of a step hides."""
_GLOO_LEAST = 0.05
"""GB/s: with NCCL, gloo carries only flags."""
_OPEN_MOST = 10.0
"""ms: 64 threads then open 6,400 images a second."""
_WRITE_LEAST = 100.0
"""MB/s: a checkpoint of 0.9 GB then takes 9 s, in the background."""
_FILES = 32
_WRITTEN_MB = 128

Finding = tuple[str, str]
"""What was found, and the verdict."""


def main(directory: Path) -> int:
    """Measure everything; the main rank records it. Returns the exit code of the contract."""
    cluster = _Cluster(directory)
    for subject, measure in {
        "processes": cluster.processes,
        "environment": cluster.environment,
        "GPUs": cluster.gpus,
        "NCCL all-reduce": cluster.nccl,
        "gloo all-reduce": cluster.gloo,
        "locks between nodes": cluster.locks,
        "opening a file": cluster.opening,
        "writing a file": cluster.writing,
        "Weights & Biases": cluster.wandb,
    }.items():
        found, verdict = measure()
        if cluster.ranks.is_main:
            append_record(
                directory / f"findings-{os.environ['SLURM_JOB_ID']}.jsonl",
                {"subject": subject, "found": found, "verdict": verdict},
            )
    cluster.close()
    return 0


class _Cluster:
    """The measurements, each made by all processes together."""

    def __init__(self, directory: Path) -> None:
        self.ranks = read_ranks()
        self._start = time.monotonic()
        self._collective = Collective(self.ranks, _MEET_SECONDS)
        self._met_after = time.monotonic() - self._start
        self._group: Any = torch.distributed.new_group(backend="gloo") if self.ranks.world_size > 1 else None
        self._hosts = self._gather(socket.gethostname() + os.environ.get("SLURMD_NODENAME", ""))
        self._directory = directory
        self._scratch = directory / f"files-{os.environ['SLURM_JOB_ID']}"

    def processes(self) -> Finding:
        count = f"{self.ranks.world_size} on {len(set(self._hosts))} nodes"
        if self._group is None:
            return count, "ok"
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "that gloo chooses")
        return f"{count}, met after {self._met_after:.1f} s; network interface {interface}", "ok"

    def environment(self) -> Finding:
        versions = Counter(self._gather(f"Python {platform.python_version()}, PyTorch {torch.__version__}"))
        cores = self._gather(count_cores())
        return f"{'; '.join(versions)}; {min(cores)} cores a process", "ok" if len(versions) == 1 else "missing"

    def gpus(self) -> Finding:
        """Count what each process sees; two on one GPU were refused when they met."""
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        seen = Counter(self._gather(f"{len(names)} x {names[0]}" if names else "none"))
        expected = "SLURM_GPUS_PER_NODE" in os.environ
        found = "; ".join(f"{count} of {self.ranks.world_size} processes see {which}" for which, count in seen.items())
        return found, ("missing" if "none" in seen else "ok") if expected else "-"

    def nccl(self) -> Finding:
        if self._group is None or self._collective.device.type != "cuda":
            return "no GPUs" if self._group is not None else "one process", "-"
        values = torch.ones(_GRADIENT_BYTES // 4, device=self._collective.device)
        return self._all_reduce(values, torch.distributed.group.WORLD, _NCCL_LEAST)

    def gloo(self) -> Finding:
        if self._group is None:
            return "one process", "-"
        return self._all_reduce(torch.ones(4_000_000), self._group, _GLOO_LEAST)

    def locks(self) -> Finding:
        """Take a lock on the main rank and see whether all others notice."""
        if len(set(self._hosts)) == 1:
            return "one node", "-"
        with contextlib.ExitStack() as held:
            if self.ranks.is_main:
                held.enter_context(exclusive(self._directory))
            self._collective.barrier()
            free = self._gather(not self.ranks.is_main and lock_holder(self._directory) is None)
        if sum(free) == 0:
            return f"a lock in {self._directory} holds for all", "ok"
        return f"a lock in {self._directory} is not seen by {sum(free)} other processes (Lustre: -o flock)", "missing"

    def opening(self) -> Finding:
        """Open the files of a process on another node, which are not in the cache of this one."""
        own, other = (self._scratch / str(rank) for rank in (self.ranks.rank, self._rank_elsewhere()))
        own.mkdir(parents=True)
        for number in range(_FILES):
            (own / str(number)).write_bytes(b"x")
        self._collective.barrier()
        times = []
        for number in range(_FILES):
            start = time.perf_counter()
            (other / str(number)).read_bytes()
            times.append(1e3 * (time.perf_counter() - start))
        medians, worst = self._gather(statistics.median(times)), max(self._gather(max(times)))
        median = max(medians)
        return f"{median:.2f} ms, at worst {worst:.1f} ms", "ok" if median <= _OPEN_MOST else "slow"

    def writing(self) -> Finding:
        """Write and flush a file on the main rank, which alone writes checkpoints."""
        seconds = 0.0
        if self.ranks.is_main:
            start = time.perf_counter()
            write_bytes(self._scratch / "checkpoint", os.urandom(1_000_000) * _WRITTEN_MB)
            seconds = time.perf_counter() - start
        rate = _WRITTEN_MB / max(self._gather(seconds))
        self._collective.barrier()
        if self.ranks.is_main:
            shutil.rmtree(self._scratch)
        return f"{rate:,.0f} MB/s to disk", "ok" if rate >= _WRITE_LEAST else "slow"

    def wandb(self) -> Finding:
        server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        if not self.ranks.is_main:
            return "", ""
        if choose_mode("auto") != "online":
            return f"{choose_mode('auto')}: the job finds no key, or WANDB_MODE says so", "offline"
        try:
            urllib.request.urlopen(server, timeout=10).close()
        except urllib.error.HTTPError:
            pass  # an answer
        except OSError as error:
            return f"no answer from {server} ({error}); set tracking.wandb=offline and use `wandb sync`", "offline"
        return f"{server} answers, and the job finds a key", "ok"

    def close(self) -> None:
        self._collective.barrier()
        self._collective.close()

    def _all_reduce(self, values: torch.Tensor, group: Any, least: float) -> Finding:
        """Measure as NCCL's tests do: the bytes that cross each process's link, by time."""
        rounds = 5
        for number in range(2 + rounds):
            if number == 2:
                self._wait()
                start = time.perf_counter()
            torch.distributed.all_reduce(values, group=group)
        self._wait()
        seconds = max(self._gather(time.perf_counter() - start)) / rounds
        size, world = values.numel() * values.element_size(), self.ranks.world_size
        rate = 2 * (world - 1) / world * size / seconds / 1e9
        gradients = 2 * (world - 1) / world * _GRADIENT_BYTES / rate / 1e9
        return f"{rate:.2f} GB/s; SENet-154's gradients in {gradients:.2f} s", "ok" if rate >= least else "slow"

    def _wait(self) -> None:
        if self._collective.device.type == "cuda":
            torch.cuda.synchronize()
        self._collective.barrier()

    def _rank_elsewhere(self) -> int:
        ranks = [rank for rank, host in enumerate(self._hosts) if host != self._hosts[self.ranks.rank]]
        return ranks[self.ranks.rank % len(ranks)] if ranks else self.ranks.rank

    def _gather(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        values = [None] * self.ranks.world_size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values


if __name__ == "__main__":
    sys.exit(answered(lambda: main(Path(sys.argv[1]))))
