"""Running mean and variance of batch norms: averaged over the processes, or computed anew over many images.

Each process has its own, of its own images; what is saved and frozen is the main rank's. With a momentum of 0.1 that is
an average over about 19 of its micro-batches.
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.config.execution import ExecutionConfig
from pipeline.config.schema import Config
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.engines.autocast import AutocastNetwork
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StopRequested
from pipeline.ground.seeds import derive_seed
from pipeline.ground.stop import StopFlag
from pipeline.training.batching import BatchSplit


def average_running_statistics(model: nn.Module, collective: Collective) -> None:
    """Replace running means and variances by their mean over all ranks, in place. Frozen ones are left alone.

    An average over ranks of moving averages is the moving average of the ranks' mean, so it may be taken at any time.
    """
    if collective.ranks.world_size == 1:
        return
    buffers = [
        buffer for norm in model.modules() if isinstance(norm, nn.BatchNorm2d) for buffer in _running_statistics(norm)
    ]
    if not buffers:
        return
    values = torch.cat(buffers)
    collective.average(values)
    for buffer, value in zip(buffers, torch.split(values, [len(buffer) for buffer in buffers]), strict=True):
        buffer.copy_(value)


def recompute_running_statistics(
    model: nn.Module,
    config: Config,
    train: ImageIndex,
    split: BatchSplit,
    first_step: int,
    collective: Collective,
    stop: StopFlag,
) -> int:
    """Replace running means and variances by plain averages over the micro-batches of the next training images.

    At least `config.freeze_bn.statistics_images` images are seen, whole steps of them from `first_step` on, augmented
    as for training, each micro-batch normalised by itself. Returns the number of images. Raises StopRequested if a stop
    is requested, having saved nothing.
    """
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    steps = -(-config.freeze_bn.statistics_images // split.global_batch)
    preprocessor = Preprocessor(config.input, config.augmentation, collective.device, config.execution.channels_last)
    loader = build_train_loader(
        train,
        config,
        collective.ranks,
        collective.device,
        micro_batch=split.micro_batch,
        first_step=first_step,
        last_step=first_step + steps,
    )
    network = AutocastNetwork(model, ExecutionConfig(precision=config.execution.precision), collective.device)
    model.to(collective.device).eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for a plain average
        norm.train()
    try:
        for number, batch in enumerate(loader):
            step, index = divmod(number, split.accumulation)
            if index == 0:
                if collective.any(stop.is_set):
                    raise StopRequested("stopped while computing the batch norms' statistics; nothing was to be saved")
                torch.manual_seed(derive_seed(config.seed, "statistics", first_step + step, collective.ranks.rank))
            with torch.no_grad():
                network(preprocessor.training(batch))
    finally:
        loader.close()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train()
    average_running_statistics(model, collective)
    return steps * split.global_batch


def _running_statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
