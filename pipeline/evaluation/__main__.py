"""`python -m pipeline.evaluation`, started by `launch predict`: settings on stdin, a JSON line an image on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from pipeline.config.crop_plan import CropPlan
from pipeline.config.data import InputConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.operations import LoaderConfig
from pipeline.data.index import ImageClass
from pipeline.data.named_images import index_named_images
from pipeline.evaluation.prediction import Predictor, Settings
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR
from pipeline.ground.printing import print_line
from pipeline.ground.stop import stop_with_parent
from pipeline.store.answer import answered


def _predict() -> int:
    """Predict, and name on stderr at the end what is no image. Returns the exit code: 2 if there is such a file."""
    stop_with_parent()
    asked = json.load(sys.stdin)
    settings = Settings(
        CropPlan.model_validate(asked["plan"]),
        ExecutionConfig.model_validate(asked["execution"]),
        InputConfig.model_validate(asked["input"]),
        LoaderConfig.model_validate(asked["loader"]),
        asked["batch"],
    )
    problems: list[str] = []
    try:
        index = index_named_images([Path(path) for path in asked["images"]], problems.append)
        if index is not None:
            device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
            classes = tuple(ImageClass(**fields) for fields in asked["classes"])
            predictor = Predictor(Path(asked["weights"]), settings, device, classes)
            for line in predictor.predictions(index, asked["top"]):
                print(json.dumps(line), flush=True)
    finally:
        for problem in problems:
            print_line(problem, sys.stderr)
    return EXIT_USER_ERROR if problems else EXIT_DONE


if __name__ == "__main__":
    sys.exit(answered(_predict))
