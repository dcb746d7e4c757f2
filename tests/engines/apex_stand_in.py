"""Stands in for what Apex needs a GPU for: its compiled kernels, computed by PyTorch on the CPU, and the Python around
them that cannot be imported without. What they take and give is what Apex's source says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def multi_tensor_sgd(
    chunk_size: int,
    overflowed: torch.Tensor,
    tensors: list[list[torch.Tensor]],
    weight_decay: float,
    momentum: float,
    dampening: float,
    lr: float,
    nesterov: bool,
    first_run: bool,
    wd_after_momentum: bool,
    scale: float,
) -> None:
    """The kernel's formula. It walks through memory, so that gradient, weight and momentum must be laid out alike."""
    assert (dampening, wd_after_momentum, scale) == (0, False, 1.0)
    for gradient, weight, buffer in zip(*tensors, strict=True):
        assert gradient.dtype == weight.dtype == buffer.dtype == torch.float32
        assert gradient.stride() == weight.stride() == buffer.stride()
        with torch.no_grad():
            step = gradient.add(weight, alpha=weight_decay) if weight_decay else gradient
            if momentum:
                if first_run:
                    buffer.copy_(step)
                else:
                    buffer.mul_(momentum).add_(step)
                step = step.add(buffer, alpha=momentum) if nesterov else buffer
            weight.add_(step, alpha=-lr)


class FusedSGD(torch.optim.Optimizer):
    """Apex's, as far as it is seen from outside."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0})

    def zero_grad(self) -> None:  # type: ignore[override]
        super().zero_grad()

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            first_run = True
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in learning:
                first_run = "momentum_buffer" not in self.state[parameter]
                self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            momentum = [self.state[parameter]["momentum_buffer"] for parameter in learning]
            multi_tensor_sgd(
                65536,
                torch.zeros(1, dtype=torch.int),
                [[parameter.grad for parameter in learning], learning, momentum],
                group["weight_decay"],
                group["momentum"],
                0,
                group["lr"],
                group["nesterov"],
                first_run,
                False,
                1.0,
            )


def install(folder: Path) -> None:
    """Make the folder one from which Apex and its extensions can be imported."""
    contents = {
        "apex/__init__.py": "",
        "apex/optimizers/__init__.py": "from tests.engines.apex_stand_in import FusedSGD\n",
    }
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    install_extensions(folder)


def install_extensions(folder: Path) -> None:
    """The compiled part alone, for Apex's own Python."""
    (folder / "amp_C.py").write_text("from tests.engines.apex_stand_in import multi_tensor_sgd\n")
