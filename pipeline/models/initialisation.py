"""Memory and initial weights of a network that was built on the meta device."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.ground.seeds import derive_seed


def allocate(model: nn.Module, device: torch.device) -> None:
    """Allocate uninitialised memory for a network on the meta device.

    Equivalent to `model.to_empty`, which imports sympy and takes seconds for it.
    """
    empty = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(empty, assign=True)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Set every parameter and buffer: He weights, zero biases, batch norms at (1, 0) with fresh statistics.

    Weights are normal with standard deviation sqrt(2 / fan-in), equation (10) of "Delving Deep into Rectifiers". The
    paper names that initialisation but not its fan. Only the fan-in is right for grouped convolutions: PyTorch's
    fan-out counts the channels of all groups, though an input reaches only its own, and so is 64 times too large in
    SENet-154. Each tensor is drawn from the seed and its name alone; the global generators are neither read nor
    advanced.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            generator = torch.Generator().manual_seed(derive_seed(seed, "initialise", f"{name}.weight"))
            # Drawn in one fixed memory layout on the CPU, so that channels_last or a GPU does not change the values.
            weight = torch.empty(module.weight.shape, device="cpu")
            module.weight.copy_(weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator))
            if module.bias is not None:
                module.bias.zero_()
