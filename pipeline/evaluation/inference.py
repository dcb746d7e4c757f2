"""The network's answer to all views of an image: probabilities or logits averaged over the views."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.crop_plan import CropPlan, Pooling
from pipeline.config.execution import ExecutionConfig
from pipeline.data.batch import View
from pipeline.data.normalisation import Preprocessor
from pipeline.errors import UserError
from pipeline.evaluation.crops import expand

Network = Callable[[torch.Tensor], torch.Tensor]
"""A model, compiled or not: (N, 3, H, W) to (N, K) logits."""

SLIDING_WINDOW = 7
"""Side of the last map at 224 px, which the authors' classifier was made for."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ViewScorer:
    """Scores batches of decoded windows, with the model as it stands: it should be in eval mode, on `device`.

    Letters in shapes: V views, N images, K classes.
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
        """`batch` is how many crops of a size pass through the network at once.

        Crops pass through `compiled` where it is given, and a smaller batch is then filled up with black images, since
        a compiled model wants one size of batch. Whole images come in too many sizes for it.
        """
        windows = expand(plan)
        self._windows = windows
        self._averaging = plan.averaging
        weights = [seen.weight for seen in windows for _ in range(2 if seen.is_mirrored else 1)]
        self._weights_V11 = torch.tensor(weights, device=device).div_(sum(weights)).view(-1, 1, 1)
        self._networks: dict[Pooling | None, Network] = {None: compiled or model, "global": model}
        if any(seen.dense == "sliding" for seen in windows):
            self._networks["sliding"] = with_sliding_windows(model)
        self._precision = execution.precision
        self._preprocessor = preprocessor
        self._device = device
        self._batch = batch
        self._fills_up = compiled is not None

    def log_probabilities(self, views: tuple[View, ...]) -> torch.Tensor:
        """What the plan's views say together: (N, K) float32 log-probabilities, on the device.

        `views` holds for each window of the plan what `ViewBatch` says. Averaged are the softmax probabilities, or the
        logits, as the plan has it. The mean probability is taken on the logarithmic scale, so that the classes far
        behind keep their order where their probabilities would be 0 in float32.
        """
        logits_VNK = self._logits(views)
        if self._averaging == "logits":
            return (logits_VNK * self._weights_V11).sum(0).log_softmax(1)
        return (logits_VNK.log_softmax(2) + self._weights_V11.log()).logsumexp(0)

    def _logits(self, views: tuple[View, ...]) -> torch.Tensor:
        """(V, N, K): a window's mirror image follows it."""
        # Of one size and kind, so that they can share a batch: where they belong, and what they are.
        groups: dict[tuple[torch.Size, Pooling | None], list[tuple[int, list[int], torch.Tensor]]] = {}
        view = 0
        for seen, window in zip(self._windows, views, strict=True):
            for rows, images in _by_size(window):
                groups.setdefault((images.shape[1:], seen.dense), []).append((view, rows, images))
                if seen.is_mirrored:
                    groups[images.shape[1:], seen.dense].append((view + 1, rows, images.flip(3)))
            view += 2 if seen.is_mirrored else 1
        logits_VNK: torch.Tensor | None = None
        for (_, dense), members in groups.items():
            answers = [self._forward(dense, batch) for batch in _batches((each for *_, each in members), self._batch)]
            logits = torch.cat(answers)
            if logits_VNK is None:
                logits_VNK = logits.new_empty(view, len(views[0]), logits.shape[1])
            for number, rows, images in members:
                logits_VNK[number, rows], logits = logits[: len(images)], logits[len(images) :]
        assert logits_VNK is not None
        return logits_VNK

    def _forward(self, dense: Pooling | None, images: torch.Tensor) -> torch.Tensor:
        num_images = len(images)
        images = images.to(self._device, non_blocking=True)
        if self._fills_up and dense is None and num_images < self._batch:
            images = torch.cat((images, images.new_zeros(self._batch - num_images, *images.shape[1:])))
        pixels = self._preprocessor.evaluation(images)
        with torch.autocast(self._device.type, _DTYPES[self._precision], enabled=self._precision != "float32"):
            logits = self._networks[dense](pixels)
        return logits[:num_images].float()


def _by_size(view: View) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The images of a view that are of one size, as a batch, and which of the images they are."""
    if isinstance(view, torch.Tensor):
        yield list(range(len(view))), view
        return
    rows_by_size: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(view):
        rows_by_size.setdefault(image.shape, []).append(row)
    for rows in rows_by_size.values():
        yield rows, torch.stack([view[row] for row in rows])


def _batches(tensors: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The rows of the tensors one after the other, `size` at a time, in the last batch what is left."""
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


def with_sliding_windows(model: nn.Module) -> nn.Module:
    """The same network, sharing its weights, that answers with the mean logits of all 7 x 7 windows of its last map.

    The classifier is linear, so the mean of its logits is its logit of the windows' mean.
    """
    twin = copy.copy(model)
    twin._modules = {**model._modules, "avg_pool": SlidingPool()}
    return twin


class SlidingPool(nn.Module):
    """The mean of the means of all 7 x 7 windows: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """UserError where the map is smaller than a window."""
        height, width = features.shape[2:]
        if min(height, width) < SLIDING_WINDOW:
            raise UserError(
                f"crop plan: views with dense: sliding need a last map of at least {SLIDING_WINDOW} x {SLIDING_WINDOW} "
                f"(given {height} x {width}); raise their resize_px"
            )
        return F.avg_pool2d(features, SLIDING_WINDOW, stride=1).mean((2, 3), keepdim=True)


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
