"""Checkpoints written aside: training waits for a copy in memory, and a thread checks it and brings it to disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from pipeline.engines.engine import OptimizerState
from pipeline.training.checkpoint import Checkpoint, CheckpointStore, Saved

_ALIGNMENT = 64
"""Bytes: a multiple of the size of any number, and where copies go fast."""


class NotFinite(Exception):
    """The weights of a checkpoint hold NaN or infinity, so it was not written; the message names its step."""


class BackgroundWriter:
    """Writes to a `CheckpointStore`, one checkpoint at a time and at most one in the making.

    The store's promises hold at every moment, since it does the writing: what has not been renamed is no checkpoint.
    Only finite weights are given to it. The memory of the copy is kept for the next one.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._writing: Future[Saved] | None = None
        self._preparing: Future[None] | None = None
        self._memory: dict[str, _CopyMemory] = {}

    def prepare(self, model: Mapping[str, torch.Tensor], momentum: Mapping[str, torch.Tensor]) -> None:
        """Get the memory for copies of tensors like these while training begins, so that its first checkpoint is no
        slower than the others. To be called at most once, before the first `start`."""
        self._preparing = self._thread.submit(self._make_room, model, momentum)

    def start(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Copy a checkpoint and begin to write it; its tensors may change as soon as this returns.

        The one before must have been taken note of: see `wait`. Copies from a GPU are queued on the current stream, so
        the host does not wait for them, and what is queued later cannot change what they read.
        """
        assert self._writing is None, "a checkpoint is still being written"
        if self._preparing is not None:
            self._preparing.result()
            self._preparing = None
        optimizer = checkpoint.optimizer
        self._make_room(checkpoint.model, optimizer.tensors)
        copied = dataclasses.replace(
            checkpoint,
            model=self._memory["model"].fill(checkpoint.model),
            optimizer=OptimizerState(self._memory["momentum"].fill(optimizer.tensors), dict(optimizer.values)),
        )
        is_copied = _mark(checkpoint)
        self._writing = self._thread.submit(self._write, copied, is_copied, best_step)

    def poll(self) -> Saved | None:
        """The checkpoint that was finished since the last call, if one was. UserError where it could not be written,
        NotFinite where it must not be."""
        return self.wait() if self._writing is not None and self._writing.done() else None

    def wait(self) -> Saved | None:
        """Wait for the checkpoint in the making, if there is one; errors as for `poll`."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def close(self) -> None:
        """Let the checkpoint in the making be finished, and end the thread. For a training that ends with an error:
        whether the checkpoint could be written is not told."""
        self._thread.shutdown()

    def _make_room(self, model: Mapping[str, torch.Tensor], momentum: Mapping[str, torch.Tensor]) -> None:
        for kind, tensors in (("model", model), ("momentum", momentum)):
            if kind not in self._memory or not self._memory[kind].fits(tensors):
                self._memory.pop(kind, None)
                self._memory[kind] = _CopyMemory(tensors)

    def _write(self, checkpoint: Checkpoint, is_copied: torch.cuda.Event | None, best_step: int | None) -> Saved:
        if is_copied is not None:
            is_copied.synchronize()
        # A step moves the weights by the momentum, so where that is not finite, neither are they.
        if not all(_is_finite(tensor) for tensor in checkpoint.model.values()):
            raise NotFinite(f"weights became NaN or infinite in step {checkpoint.global_step}")
        return self._store.save(checkpoint, best_step)


class _CopyMemory:
    """Room for copies of named tensors, pinned where they come from a GPU.

    Each copy lies as its tensor does, channels last or not, since that is copied fastest; it is laid out for the file
    when it is written.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors.values()]
        is_pinned = any(tensor.is_cuda for tensor in tensors.values())
        # One piece, since each piece of pinned memory costs a call to the driver. Filled, since a page that is written
        # for the first time costs many times what a copy to it does.
        memory = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=is_pinned).zero_()
        self._kinds = _kinds(tensors)
        self._copies: dict[str, torch.Tensor] = {}
        start = 0
        for (name, tensor), size in zip(tensors.items(), sizes, strict=True):
            room = memory[start : start + tensor.nbytes].view(tensor.dtype)
            self._copies[name] = room.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())
            start += size

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether names, shapes, layouts, types and devices are those that it was made for."""
        return _kinds(tensors) == self._kinds

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Copy the tensors; returns the copies, which are overwritten by the next ones."""
        for name, tensor in tensors.items():
            self._copies[name].copy_(tensor.detach(), non_blocking=True)
        return self._copies


def _kinds(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        name: (tensor.shape, tensor.is_contiguous(), tensor.dtype, tensor.device) for name, tensor in tensors.items()
    }


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # NaN and infinity both show in a minimum and maximum, which take one pass; isfinite of everything takes several.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _mark(checkpoint: Checkpoint) -> torch.cuda.Event | None:
    """The moment in the current stream's work at which the copies are there; None where nothing was on a GPU."""
    if not any(tensor.is_cuda for tensor in checkpoint.model.values()):
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
