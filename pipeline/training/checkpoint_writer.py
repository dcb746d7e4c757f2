"""Checkpoints written aside: training waits for a copy in memory, and a thread brings it to disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pipeline.engines.engine import OptimizerState
from pipeline.training.checkpoint import Checkpoint, CheckpointStore, Saved

_ALIGNMENT = 64
"""Bytes: a multiple of the size of any number, and where copies go fast."""


class CheckpointWriter:
    """Writes to a `CheckpointStore`, one checkpoint at a time and at most one in the making.

    The store's promises hold at every moment, since it does the writing: what has not been renamed is no checkpoint.
    The memory of the copy is kept for the next one.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._writing: Future[Saved] | None = None
        self._memory: dict[str, torch.Tensor] = {}

    def start(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Copy a checkpoint and begin to write it; its tensors may change as soon as this returns.

        The one before must have been taken note of: see `wait`. Copies from a GPU are queued on the current stream, so
        the host does not wait for them, and what is queued later cannot change what they read.
        """
        assert self._writing is None, "a checkpoint is still being written"
        optimizer = checkpoint.optimizer
        copied = dataclasses.replace(
            checkpoint,
            model=self._copy("model", checkpoint.model),
            optimizer=OptimizerState(self._copy("optimizer", optimizer.tensors), dict(optimizer.values)),
        )
        is_copied = _mark(checkpoint)
        self._writing = self._thread.submit(self._write, copied, is_copied, best_step)

    def poll(self) -> Saved | None:
        """The checkpoint that was finished since the last call, if one was. UserError where it could not be written."""
        return self.wait() if self._writing is not None and self._writing.done() else None

    def wait(self) -> Saved | None:
        """Wait for the checkpoint in the making, if there is one; UserError where it could not be written."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def close(self) -> None:
        """Let the checkpoint in the making be finished, and end the thread. For a training that ends with an error:
        whether the checkpoint could be written is not told."""
        self._thread.shutdown()

    def _write(self, checkpoint: Checkpoint, is_copied: torch.cuda.Event | None, best_step: int | None) -> Saved:
        if is_copied is not None:
            is_copied.synchronize()
        return self._store.save(checkpoint, best_step)

    def _copy(self, kind: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors in memory of our own: contiguous, as they are written, and pinned where they come from a GPU."""
        sizes = [-(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT for tensor in tensors.values()]
        memory = self._memory.get(kind)
        if memory is None or memory.numel() < sum(sizes):
            # One piece, since each piece of pinned memory costs a call to the driver.
            is_pinned = any(tensor.is_cuda for tensor in tensors.values())
            memory = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=is_pinned)
            self._memory[kind] = memory
        copies, start = {}, 0
        for (name, tensor), size in zip(tensors.items(), sizes, strict=True):
            room = memory[start : start + tensor.numel() * tensor.element_size()]
            copies[name] = room.view(tensor.dtype).view(tensor.shape).copy_(tensor.detach(), non_blocking=True)
            start += size
        return copies


def _mark(checkpoint: Checkpoint) -> torch.cuda.Event | None:
    """The moment in the current stream's work at which the copies are there; None where nothing was on a GPU."""
    if not any(tensor.is_cuda for tensor in checkpoint.model.values()):
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
