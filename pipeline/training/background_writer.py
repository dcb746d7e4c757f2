"""Checkpoints in the background: training waits for a copy in memory, which a thread checks and brings to disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from pipeline.engines.engine import OptimizerState
from pipeline.training.checkpoint import CheckpointStore, Saved
from pipeline.training.state import TrainingState

_ALIGNMENT = 64
"""Bytes: a multiple of the size of any number, at which copies are fast."""


class NotFinite(Exception):
    """Weights hold NaN or infinity, so they were not written; the message names the step."""


class BackgroundWriter:
    """Writes to a `CheckpointStore`: finite weights only, and at most one checkpoint at a time.

    The memory of the copy is kept for the next one.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._writing: Future[Saved] | None = None
        self._preparing: Future[None] | None = None
        self._memory: dict[str, _CopyMemory] = {}

    def prepare(self, model: Mapping[str, torch.Tensor], momentum: Mapping[str, torch.Tensor]) -> None:
        """Allocate memory for copies of tensors like these while training begins, for its first checkpoint.

        To be called at most once, before the first `start`.
        """
        self._preparing = self._thread.submit(self._make_room, model, momentum)

    def start(self, state: TrainingState, best_step: int | None) -> None:
        """Copy a state and begin to write it; its tensors may change as soon as this returns.

        Call `wait` before, for the previous one. Copies from a GPU are queued on the current stream, so the host does
        not wait for them, and later work cannot change their content.
        """
        assert self._writing is None, "a checkpoint is still being written"
        if self._preparing is not None:
            self._preparing.result()
            self._preparing = None
        optimizer = state.optimizer
        self._make_room(state.model, optimizer.tensors)
        copied = dataclasses.replace(
            state,
            model=self._memory["model"].fill(state.model),
            optimizer=OptimizerState(self._memory["momentum"].fill(optimizer.tensors), dict(optimizer.values)),
        )
        self._writing = self._thread.submit(self._write, copied, _mark_copied(state), best_step)

    def poll(self) -> Saved | None:
        """Return the checkpoint that was finished since the last call, or None.

        Raises OSError if writing failed, NotFinite if the weights are not finite.
        """
        return self.wait() if self._writing is not None and self._writing.done() else None

    def wait(self) -> Saved | None:
        """Wait for the checkpoint that is being written, if there is one; otherwise as `poll`."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def close(self) -> None:
        """Wait for the checkpoint that is being written, and end the thread; errors are not raised."""
        self._thread.shutdown()

    def _make_room(self, model: Mapping[str, torch.Tensor], momentum: Mapping[str, torch.Tensor]) -> None:
        for kind, tensors in (("model", model), ("momentum", momentum)):
            if kind not in self._memory or not self._memory[kind].fits(tensors):
                self._memory.pop(kind, None)
                self._memory[kind] = _CopyMemory(tensors)

    def _write(self, state: TrainingState, is_copied: torch.cuda.Event | None, best_step: int | None) -> Saved:
        if is_copied is not None:
            is_copied.synchronize()
        # A step moves the weights by the momentum, so if that is not finite, neither are they.
        if not all(_is_finite(tensor) for tensor in state.model.values()):
            raise NotFinite(f"weights became NaN or infinite in step {state.global_step}")
        return self._store.save(state, best_step)


class _CopyMemory:
    """Memory for copies of named tensors, pinned if they come from a GPU.

    Each copy has its tensor's layout, channels last or not, since that is copied fastest.
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
        """Return whether names, shapes, layouts, types and devices are those of this memory."""
        return _kinds(tensors) == self._kinds

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return copies of the tensors, which the next call overwrites."""
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


def _mark_copied(state: TrainingState) -> torch.cuda.Event | None:
    """Return an event of the current stream for the end of the copies, or None if nothing is on a GPU."""
    if not any(tensor.is_cuda for tensor in state.model.values()):
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
