"""Score images: the network's probabilities or logits, averaged over the crops of a plan."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.crop_plan import CropPlan, Pooling
from pipeline.config.execution import ExecutionConfig
from pipeline.data.batch import CropImages
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import expand
from pipeline.ground.errors import UserError
from pipeline.networks.layers import POOLING

Network = Callable[[torch.Tensor], torch.Tensor]
"""A model, compiled or not: (N, 3, H, W) to (N, K) logits."""

SLIDING_WINDOW = 7
"""Side of the last map at 224 px, for which the authors' classifier was made."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PlanScorer:
    """Scores batches of decoded crops. The model should be in eval mode, on `device`.

    Letters in shapes: V crops with their mirror images, N images, K classes.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: CropPlan,
        execution: ExecutionConfig,
        preprocessor: Preprocessor,
        device: torch.device,
        batch: int,
        compiled: Network | None = None,
    ) -> None:
        """Prepare the plan; `batch` crops of a size pass through the network at once.

        If `compiled` is given, crops pass through it, and a smaller batch is filled up with black images, since a
        compiled model needs one batch size. Whole images, of many sizes, never do.
        """
        crops = expand(plan)
        self._crops = crops
        self._averaging = plan.averaging
        weights = [planned.weight for planned in crops for _ in range(2 if planned.is_mirrored else 1)]
        self._weights_V11 = torch.tensor(weights, device=device).div_(sum(weights)).view(-1, 1, 1)
        self._networks: dict[Pooling | None, Network] = {None: model if compiled is None else compiled, "global": model}
        if any(planned.pooling == "sliding" for planned in crops):
            self._networks["sliding"] = with_sliding_crops(model)
        self._precision = execution.precision
        self._preprocessor = preprocessor
        self._device = device
        self._batch = batch
        self._fills_up = compiled is not None

    def log_probabilities(self, crops: tuple[CropImages, ...]) -> torch.Tensor:
        """Return the average over the plan's crops: (N, K) float32 log-probabilities, on the device.

        `crops` holds the images of each crop of the plan, as in `PlanBatch`. The mean of probabilities is taken on the
        logarithmic scale, so that classes keep their order even if their probabilities are 0 in float32.
        """
        logits_VNK = self._logits(crops)
        if self._averaging == "logits":
            return (logits_VNK * self._weights_V11).sum(0).log_softmax(1)
        return (logits_VNK.log_softmax(2) + self._weights_V11.log()).logsumexp(0)

    def _logits(self, crops: tuple[CropImages, ...]) -> torch.Tensor:
        """Return (V, N, K); a crop's mirror image follows it."""
        # By size and kind, since these can share a batch: row of V, rows of N, and the images.
        groups: dict[tuple[torch.Size, Pooling | None], list[tuple[int, Sequence[int], torch.Tensor]]] = {}
        place = 0
        for planned, crop in zip(self._crops, crops, strict=True):
            for rows, images in _by_size(crop):
                groups.setdefault((images.shape[1:], planned.pooling), []).append((place, rows, images))
                if planned.is_mirrored:
                    groups[images.shape[1:], planned.pooling].append((place + 1, rows, images.flip(3)))
            place += 2 if planned.is_mirrored else 1
        logits_VNK: torch.Tensor | None = None
        for (_, pooling), members in groups.items():
            answers = [self._forward(pooling, batch) for batch in _batches((each for *_, each in members), self._batch)]
            logits = torch.cat(answers)
            if logits_VNK is None:
                logits_VNK = logits.new_empty(place, len(crops[0]), logits.shape[1])
            for place, rows, images in members:
                answers_NK, logits = logits[: len(images)], logits[len(images) :]
                if isinstance(rows, range):
                    logits_VNK[place] = answers_NK
                    continue
                # One by one: a list as an index would be copied to the device, and the host wait for it.
                for row, answer_K in zip(rows, answers_NK, strict=True):
                    logits_VNK[place, row] = answer_K
        assert logits_VNK is not None
        return logits_VNK

    def _forward(self, pooling: Pooling | None, images: torch.Tensor) -> torch.Tensor:
        num_images = len(images)
        images = images.to(self._device, non_blocking=True)
        if self._fills_up and pooling is None and num_images < self._batch:
            images = torch.cat((images, images.new_zeros(self._batch - num_images, *images.shape[1:])))
        pixels = self._preprocessor.evaluation(images)
        with torch.autocast(self._device.type, DTYPES[self._precision], enabled=self._precision != "float32"):
            logits = self._networks[pooling](pixels)
        return logits[:num_images].float()


def _by_size(crops: CropImages) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    """Yield the images of each size as a batch, with their rows: a range if these are all."""
    if isinstance(crops, torch.Tensor):
        yield range(len(crops)), crops
        return
    rows_by_size: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(crops):
        rows_by_size.setdefault(image.shape, []).append(row)
    for rows in rows_by_size.values():
        yield rows, torch.stack([crops[row] for row in rows])


def _batches(tensors: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Yield the rows of the tensors one after the other, `size` at a time, the last batch smaller."""
    waiting: list[torch.Tensor] = []
    for tensor in tensors:
        while sum(map(len, waiting)) + len(tensor) >= size:
            missing = size - sum(map(len, waiting))
            yield torch.cat([*waiting, tensor[:missing]])
            waiting, tensor = [], tensor[missing:]
        if len(tensor):
            waiting.append(tensor)
    if waiting:
        yield torch.cat(waiting)


def with_sliding_crops(model: nn.Module) -> nn.Module:
    """Return the network, with the same weights, averaging the logits of all 7 x 7 windows of its last map.

    The classifier is linear, so the mean of its logits is its logit of the crops' mean. Raises UserError if the network
    does not average its last map before the classifier.
    """
    if POOLING not in model._modules:
        raise UserError("crop plan: sliding windows need a network that averages its last map; use global")
    twin = copy.copy(model)
    twin._modules = {**model._modules, POOLING: SlidingPool()}
    return twin


class SlidingPool(nn.Module):
    """The mean of the means of all 7 x 7 windows: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Average the map. Raises UserError if it is smaller than a crop."""
        height, width = features.shape[2:]
        if min(height, width) < SLIDING_WINDOW:
            raise UserError(
                f"crop plan: sliding windows need a last map of at least {SLIDING_WINDOW} x {SLIDING_WINDOW} "
                f"(given {height} x {width}); raise resize_px or crop_px"
            )
        return F.avg_pool2d(features, SLIDING_WINDOW, stride=1).mean((2, 3), keepdim=True)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the whole model in eval mode, without gradients, and afterwards each module back in its own mode.

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
