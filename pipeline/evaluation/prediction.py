"""What a network says of single images: the likeliest classes of each."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.crop_plan import CropPlan
from pipeline.config.data import InputConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.network import ModelConfig
from pipeline.config.operations import LoaderConfig
from pipeline.data.index import ImageClass, ImageIndex
from pipeline.data.loaders import build_plan_loader
from pipeline.data.preprocessing import Preprocessing, read_preprocessing
from pipeline.evaluation.expansion import expand, images_at_once
from pipeline.evaluation.inference import evaluating
from pipeline.evaluation.loading import build_scorer, load_network
from pipeline.evaluation.network_classes import LISTED, name_classes
from pipeline.evaluation.submission import top_labels
from pipeline.ground.errors import UserError
from pipeline.interop.network import identify
from pipeline.models.weights import count_classes
from pipeline.store.weight_header import read_metadata, read_shapes


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are scored, as a recipe says it for its evaluation."""

    plan: CropPlan
    execution: ExecutionConfig
    input: InputConfig
    """Where the weight file says nothing."""
    loader: LoaderConfig
    batch: int


class Predictor:
    """A network that is loaded once."""

    def __init__(
        self, weights: Path, settings: Settings, device: torch.device, classes: tuple[ImageClass, ...] = ()
    ) -> None:
        """`classes` are for a file that lists none. Raises UserError if it holds no weights of a known network."""
        metadata, shapes = read_metadata(weights), read_shapes(weights)
        if "model" not in metadata:
            metadata["model"] = identify(shapes, str(weights))
        num_classes = count_classes(weights)
        if num_classes is None:
            raise UserError(f"{weights}: no tensor last_linear.weight; import it first: launch weights import")
        pixels = settings.input
        recipe = Preprocessing(pixels.mean, pixels.std, "bilinear_antialias")
        is_named = LISTED in metadata or len(classes) != num_classes
        self.classes = name_classes(metadata, num_classes, str(weights)) if is_named else classes
        self._preprocessing = read_preprocessing(metadata, str(weights)) or recipe
        self._settings = settings
        self._device = device
        network = ModelConfig.described(metadata, num_classes, str(weights))
        self._model = load_network(network, num_classes, weights, self._preprocessing, settings.execution, device)

    def scores(self, index: ImageIndex) -> Iterator[npt.NDArray[np.float16]]:
        """Yield blocks of log-probabilities, the bits that `evaluate` stores of these images in this order."""
        settings, plan = self._settings, self._settings.plan
        at_once = images_at_once(plan, settings.batch)
        crops = [planned.crop for planned in expand(plan, self._preprocessing.resize)]
        with evaluating(self._model), contextlib.ExitStack() as stack:
            scorer = build_scorer(
                self._model, plan, self._preprocessing, settings.execution, self._device, settings.batch
            )
            loader = build_plan_loader(index, np.arange(len(index)), crops, at_once, settings.loader, self._device)
            for batch in stack.enter_context(contextlib.closing(loader)):
                yield scorer.log_probabilities(batch.crops).half().cpu().numpy()

    def predictions(self, index: ImageIndex, top: int) -> Iterator[dict[str, Any]]:
        """Yield each image's name and its `top` likeliest classes, as plain values."""
        row = 0
        for scores in self.scores(index):
            labels = top_labels(scores, min(top, len(self.classes)))
            for own, chosen in zip(scores, labels.tolist(), strict=True):
                yield {"image": index.names[row], "predictions": [self._describe(own, label) for label in chosen]}
                row += 1

    def _describe(self, scores: npt.NDArray[np.float16], label: int) -> dict[str, Any]:
        score, its = float(scores[label]), self.classes[label]
        is_finite = math.isfinite(score)
        return {
            "label": label,
            "class": its.folder,
            "words": its.words,
            "probability": round(math.exp(score), 6) if is_finite else None,
            "log_probability": score if is_finite else None,
        }
