"""The network's answer to all views of an image: probabilities averaged over the views."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from pipeline.config.crop_plan import CropPlan
from pipeline.config.execution import ExecutionConfig
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.crops import count_views, expand

Network = Callable[[torch.Tensor], torch.Tensor]
"""A model, compiled or not: (N, 3, S, S) to (N, K) logits."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ViewScorer:
    """Scores batches of decoded windows, with the model as it stands: it should be in eval mode, on `device`."""

    def __init__(
        self,
        model: Network,
        plan: CropPlan,
        execution: ExecutionConfig,
        preprocessor: Preprocessor,
        device: torch.device,
        fill_up_to: int = 0,
    ) -> None:
        """Smaller batches are filled with black images up to `fill_up_to`: a compiled model wants one size of batch."""
        self._model = model
        self._mirrored = expand(plan)[1]
        self._log_views = math.log(count_views(plan))
        self._precision = execution.precision
        self._preprocessor = preprocessor
        self._device = device
        self._fill_up_to = fill_up_to

    def log_probabilities(self, views: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logarithm of the mean, over the plan's views, of the softmax probabilities: (N, K) float32, on the device.

        `views` holds an (N, 3, S, S) uint8 tensor for each window of the plan. The mean is taken on the logarithmic
        scale, so that the classes far behind keep their order where their probabilities would be 0 in float32.
        """
        assert len(views) == len(self._mirrored)
        total: torch.Tensor | None = None
        for images, is_mirrored in zip(views, self._mirrored, strict=True):
            images = images.to(self._device, non_blocking=True)
            for seen in (images, images.flip(3)) if is_mirrored else (images,):
                answer = self._forward(seen)
                total = answer if total is None else torch.logaddexp(total, answer)
        assert total is not None
        return total - self._log_views

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        num_images = len(images)
        if num_images < self._fill_up_to:
            images = torch.cat((images, images.new_zeros(self._fill_up_to - num_images, *images.shape[1:])))
        pixels = self._preprocessor.evaluation(images)
        with torch.autocast(self._device.type, _DTYPES[self._precision], enabled=self._precision != "float32"):
            logits = self._model(pixels)
        return logits[:num_images].float().log_softmax(1)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The whole model in eval mode and without gradients; afterwards every module is in its own earlier mode.

    Its own, since in a model that trains with frozen batch norms not all modules are in train mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
