"""Preprocessing of decoded images on the device: rotation, pixel jitter, normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.data.batch import Batch


class Preprocessor:
    """Turns uint8 images into the network's input, on the device and without blocking the host."""

    def __init__(
        self, pixels: InputConfig, augmentation: AugmentationConfig, device: torch.device, channels_last: bool
    ) -> None:
        self._mean_C11 = torch.tensor(pixels.mean, device=device).view(3, 1, 1)
        self._std_C11 = torch.tensor(pixels.std, device=device).view(3, 1, 1)
        self._rotates = augmentation.rotation_degrees > 0
        self._jitter = augmentation.pixel_jitter
        self._device = device
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def training(self, batch: Batch) -> torch.Tensor:
        """Return (N, 3, S, S) float32, S being `batch.size_px`: sampled by `batch.affine`, jittered, normalised, and 0
        where `batch.hidden` says so.

        A rotated image shows the mean colour in its corners. The jitter comes from the device's default generator,
        which the caller seeds; it is not clipped to the range of a byte.
        """
        images = self._centred(batch.images)
        if self._rotates:
            images = sample(images, batch.affine.to(self._device, non_blocking=True), batch.size_px)
        if self._jitter > 0:
            images += torch.empty_like(images).uniform_(-self._jitter, self._jitter)
        images = self._scaled(images)
        if batch.hidden is not None:
            images.masked_fill_(batch.hidden.to(self._device, non_blocking=True), 0.0)
        return images

    def evaluation(self, images: torch.Tensor) -> torch.Tensor:
        """Return (N, 3, S, S) float32, normalised only."""
        return self._scaled(self._centred(images))

    def _centred(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self._device, non_blocking=True).to(torch.float32)
        values, mean = _in_rows(images, self._mean_C11)
        values.sub_(mean)
        return images

    def _scaled(self, images: torch.Tensor) -> torch.Tensor:
        values, std = _in_rows(images, self._std_C11)
        values.div_(std)
        return images.contiguous(memory_format=self._layout)


def _in_rows(images: torch.Tensor, of_channel_C11: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of images, and of a value for each channel, in which a row of pixels is one dimension.

    A CPU takes eight times as long for an innermost dimension of three. Images that do not lie so stay as they are.
    """
    pixels = images.permute(0, 2, 3, 1)
    if images.is_cuda or not pixels.is_contiguous():
        return images, of_channel_C11
    return pixels.flatten(2), of_channel_C11.flatten().repeat(images.shape[3])


def sample(images: torch.Tensor, affine_N23: torch.Tensor, size_px: int) -> torch.Tensor:
    """Sample squares of `size_px` from (N, C, S, S) float images by affine maps; bilinear, with zeros outside."""
    grid = F.affine_grid(affine_N23, [*images.shape[:2], size_px, size_px], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
