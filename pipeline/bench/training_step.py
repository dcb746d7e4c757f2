"""The task of a timed training step, and the step of a plain PyTorch script. Needs nothing but torch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from pipeline.bench.cell import Cell
from pipeline.ground.seeds import derive_seed

LEARNING_RATE = 1e-3

Step = Callable[[], torch.Tensor]
"""Takes one step; returns its loss, still on the device."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A synthetic training task: model, random images with random labels, device."""

    model: str
    num_classes: int
    image_size_px: int
    batch: int
    device: torch.device

    def images_and_labels(self, cell: Cell) -> tuple[torch.Tensor, torch.Tensor]:
        """Return normalised float32 images in the cell's layout, as the preprocessor returns them; the same at every
        call."""
        generator = torch.Generator().manual_seed(derive_seed("bench", self.model))
        images = torch.randn(self.batch, 3, self.image_size_px, self.image_size_px, generator=generator)
        labels = torch.randint(self.num_classes, (self.batch,), generator=generator)
        return images.to(self.device, memory_format=_layout(cell)), labels.to(self.device)


def compile_whole(model: nn.Module) -> nn.Module:
    """Compile as a plain script does."""
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return compiled


def compile_with_graphs(model: nn.Module) -> nn.Module:
    """Compile with CUDA graphs of the compiler's own."""
    compiled: nn.Module = torch.compile(model, mode="reduce-overhead")  # type: ignore[assignment]
    return compiled


def plain_step(
    task: Task, model: nn.Module, cell: Cell, compile_model: Callable[[nn.Module], nn.Module] = compile_whole
) -> Step:
    """Return a step of any network as a careful script does it: autocast, a scaler for float16, fused SGD on a GPU."""
    model = model.to(task.device, memory_format=_layout(cell)).train()  # type: ignore[call-overload]
    forward = compile_model(model) if cell.compile else model
    on_gpu = task.device.type == "cuda"
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4, fused=True if on_gpu else None
    )
    scaler = torch.amp.GradScaler(task.device.type, enabled=cell.precision == "float16")
    images, labels = task.images_and_labels(cell)
    criterion = nn.CrossEntropyLoss()

    def step() -> torch.Tensor:
        with _autocast(task.device, cell):
            loss: torch.Tensor = criterion(forward(images), labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def forget_compiled() -> None:
    """Reset the compiler before another way is compiled.

    PyTorch takes a changed layout or batch for something that keeps changing, and would compile slower, more general
    code.
    """
    torch.compiler.reset()


def _layout(cell: Cell) -> torch.memory_format:
    return torch.channels_last if cell.channels_last else torch.contiguous_format


def _autocast(device: torch.device, cell: Cell) -> contextlib.AbstractContextManager[object]:
    if cell.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, cell.precision))
