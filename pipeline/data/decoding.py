"""Choice of the decoder: memory, DALI on a GPU or the CPU, or torchvision in threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pipeline.config.operations import LoaderConfig
from pipeline.data import in_memory
from pipeline.data.batch import CropImages
from pipeline.data.crop import Crop
from pipeline.data.encoded import Reading
from pipeline.data.sampling import Sampling
from pipeline.ground.errors import UserError

_FEWEST_FOR_THREADS = 16_384
"""Images of a split from which `auto` uses threads: they save a tenth of a millisecond each where several crops
are taken, and the import of torchvision takes a second."""


def decode_crops(reading: Reading, sampling: Sampling, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield training crops; see `pipeline.data.dali.decode_crops`."""
    if reading.index.is_in_memory:
        return in_memory.decode_crops(reading, sampling, device)
    if decodes_in_threads(reading.loader, device):
        from pipeline.data import reference

        return reference.decode_crops(reading, sampling)
    from pipeline.data import dali

    return dali.decode_crops(reading, sampling, decoding_gpu(reading.loader, device))


def decode_plan(reading: Reading, crops: Sequence[Crop], device: torch.device) -> Iterator[tuple[CropImages, ...]]:
    """Yield the crops of an evaluation; see `pipeline.data.dali.decode_plan`."""
    if reading.index.is_in_memory:
        return in_memory.decode_plan(reading, crops, device)
    gpu, loader = decoding_gpu(reading.loader, device), reading.loader
    # Of the whole split, and not of this process's part or what is left of it: the two decoders' pixels may differ.
    is_long = len(crops) > 1 and len(reading.index) >= _FEWEST_FOR_THREADS
    if decodes_in_threads(loader, device) or (gpu is None and is_long and loader.decoder == "auto"):
        from pipeline.data import reference

        return reference.decode_plan(reading, crops)
    from pipeline.data import dali

    return dali.decode_plan(reading, crops, gpu)


def decodes_in_threads(loader: LoaderConfig, device: torch.device) -> bool:
    """Return whether torchvision decodes whatever there is to do: training images, too."""
    return loader.backend == "reference" or (loader.decoder == "threads" and decoding_gpu(loader, device) is None)


def check_decoder(loader: LoaderConfig, device: torch.device) -> None:
    """Raise UserError if the images are to be decoded on a GPU and cannot be."""
    if loader.decode == "gpu" and loader.backend == "reference":
        raise UserError("loader.decode: the reference loader decodes on the CPU; use auto or cpu (given gpu)")
    if loader.decode == "gpu" and device.type != "cuda":
        raise UserError("loader.decode: no GPU is visible to this process; use auto or cpu (given gpu)")


def decoding_gpu(loader: LoaderConfig, device: torch.device) -> int | None:
    """Return the number of the GPU to decode on, or None for the CPU."""
    if loader.decode == "cpu" or loader.backend == "reference" or device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
