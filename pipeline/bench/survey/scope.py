"""The scope of a survey."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Scope:
    """The network, its sizes and the types; the defaults are the contest's network."""

    device: torch.device
    model: str = "senet154"
    num_classes: int = 1000
    image_size_px: int = 224
    kernel_batch: int = 128
    """Images in measurements of single operations."""
    batches: tuple[int, ...] = (128, 32, 256)
    """Images in measurements of whole steps, the most informative first."""
    precisions: tuple[str, ...] = ("bfloat16", "float16")

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the types as torch.dtype."""
        return tuple(getattr(torch, precision) for precision in self.precisions)


LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
