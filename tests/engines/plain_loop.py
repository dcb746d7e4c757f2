"""What every engine must come to: synchronous SGD in one process, with nothing of the pipeline but the network."""

from __future__ import annotations

import functools

import torch
from torch import nn

from pipeline.ground.seeds import derive_seed
from pipeline.training.batching import split_batch
from tests.engines.jobs import GLOBAL_BATCH, SEED, STEPS, learning_rate, micro_batches, new_model


@functools.cache
def plain_loop(
    world_size: int = 1,
    accumulation: int = 1,
    *,
    steps: int = STEPS,
    processes_first: bool = False,
    dropout: float = 0.2,
    lr: float = 0.002,
) -> nn.Module:
    """The network after `steps`, its batch norms' statistics being those of the first process.

    The batch norms see one micro-batch at a time, and dropout draws for each process, so the loop takes the
    micro-batches of all processes one by one. Their gradients are summed for each process and then over the processes,
    as engines do that reduce once a step, or (`processes_first`) the other way round, as ZeRO 2 does.
    """
    model = new_model(dropout=dropout).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    split = split_batch(GLOBAL_BATCH, world_size, GLOBAL_BATCH // world_size // accumulation)
    for step in range(steps):
        gradients = []
        for rank in range(world_size):
            torch.manual_seed(derive_seed(SEED, "step", step, rank))
            losses = (criterion(model(images), labels) for images, labels in micro_batches(step, rank, split))
            scale = accumulation * world_size
            gradients.append([torch.autograd.grad(loss / scale, parameters) for loss in losses])
            if rank == 0:
                statistics = [buffer.clone() for buffer in model.buffers()]
        nested = zip(*gradients, strict=True) if processes_first else gradients
        sums = [[sum(values) for values in zip(*inner, strict=True)] for inner in nested]
        for parameter, *values in zip(parameters, *sums, strict=True):
            parameter.grad = sum(values)
        optimizer.param_groups[0]["lr"] = learning_rate(lr, step)
        optimizer.step()
        for buffer, value in zip(model.buffers(), statistics, strict=True):
            buffer.copy_(value)
    return model
