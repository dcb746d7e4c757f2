"""The process group of a stage and its collective operations."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed

from pipeline.ground.ranks import Ranks
from pipeline.ground.rendezvous import Rendezvous
from pipeline.ground.stop import StopFlag

_AS_LONG_AS_IT_TAKES = datetime.timedelta(days=365)


class Collective:
    """The process group of a stage: device, process groups and small collective operations.

    With one process there is no process group, and every operation returns immediately.
    """

    def __init__(self, ranks: Ranks, timeout_seconds: int, stop: StopFlag | None = None) -> None:
        self.ranks = ranks
        self._timeout = datetime.timedelta(seconds=timeout_seconds)
        self.device = torch.device("cpu")
        identity = None
        if torch.cuda.is_available():
            # Where SLURM shows each task one GPU of its own, that is number 0 for all of them.
            self.device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
            identity = str(torch.cuda.get_device_properties(self.device).uuid)
        self._control: Any = None
        self._patient: Any = None
        self._asked: tuple[Any, torch.Tensor] | None = None
        if ranks.world_size > 1:
            store = Rendezvous(ranks, timeout_seconds, stop or StopFlag()).meet(identity)
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            # Told its device, NCCL connects now, and a network that does not carry it fails here and not in step 1.
            torch.distributed.init_process_group(
                backend,
                store=store,
                rank=ranks.rank,
                world_size=ranks.world_size,
                timeout=self._timeout,
                device_id=self.device if backend == "nccl" else None,
            )
            # Flags and barriers travel over the CPU, so that agreeing to stop never makes the host wait for the GPU.
            self._control = torch.distributed.new_group(backend="gloo", timeout=self._timeout)

    def join_group(self) -> None:
        """Create the process group if there is none yet, for a library that needs one even for a single process."""
        if not torch.distributed.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)

    def limit(self, group: torch.distributed.ProcessGroup) -> None:
        """Set our timeout on a process group that a library created for itself."""
        # PyTorch has made the function public under another name.
        name = "set_timeout" if hasattr(torch.distributed, "set_timeout") else "_set_pg_timeout"
        getattr(torch.distributed.distributed_c10d, name)(self._timeout, group)

    def close(self) -> None:
        """Destroy the process groups."""
        if self._asked is not None:
            with contextlib.suppress(RuntimeError):  # a rank has ended meanwhile, for a reason of its own
                self._asked[0].wait()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def barrier(self) -> None:
        """Wait for every rank."""
        if self._control is not None:
            torch.distributed.barrier(group=self._control)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Lift the timeout around long work that every rank does by itself.

        Ranks that finish early wait for the others without limit. Elsewhere a rank that keeps the others waiting for
        longer than the timeout is taken to hang, and all are ended.
        """
        if self._control is not None and self._patient is None:
            self._patient = torch.distributed.new_group(backend="gloo", timeout=_AS_LONG_AS_IT_TAKES)
        yield
        if self._patient is not None:
            torch.distributed.barrier(group=self._patient)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return self.max(int(flag)) > 0

    def any_when_last_asked(self, flag: bool) -> bool:
        """Ask whether the flag is set on any rank, and return the answer to the call before; the first returns False.

        Every rank gets the same answer and none waits for the slowest, as long as calls are further apart than the
        ranks. With one process the answer is that to this call.
        """
        if self._control is None:
            return flag
        before, tensor = self._asked, torch.tensor([int(flag)])
        work = torch.distributed.all_reduce(
            tensor, op=torch.distributed.ReduceOp.MAX, group=self._control, async_op=True
        )
        self._asked = (work, tensor)
        if before is None:
            return False
        before[0].wait()
        return bool(before[1])

    def max(self, value: int) -> int:
        """Return the maximum over the ranks."""
        return self._reduce([value], torch.distributed.ReduceOp.MAX)[0]

    def min(self, value: int) -> int:
        """Return the minimum over the ranks."""
        return self._reduce([value], torch.distributed.ReduceOp.MIN)[0]

    def sum(self, values: list[int]) -> list[int]:
        """Return elementwise sums over the ranks as exact integers."""
        return self._reduce(values, torch.distributed.ReduceOp.SUM)

    def sum_floats(self, values: list[float]) -> list[float]:
        """Return elementwise sums over the ranks, in float64."""
        if self._control is None:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, group=self._control)
        return [float(value) for value in tensor]

    def add_up(self, counts: torch.Tensor) -> None:
        """Replace a tensor of integers on the CPU by its sum over the ranks, which is exact."""
        assert not counts.is_floating_point()
        if self._control is not None:
            torch.distributed.all_reduce(counts, group=self._control)

    def average(self, tensor: torch.Tensor) -> None:
        """Replace a tensor on the device by its mean over the ranks, the same bits on each."""
        if self._control is not None:
            torch.distributed.all_reduce(tensor)
            tensor /= self.ranks.world_size

    def broadcast(self, value: Any) -> Any:
        """Return the main rank's value on every rank. For small plain values."""
        if self._control is None:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def _reduce(self, values: list[int], operation: Any) -> list[int]:
        if self._control is None:
            return values
        tensor = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(tensor, op=operation, group=self._control)
        return [int(value) for value in tensor]
