"""The script of docs/python.md."""

from __future__ import annotations

import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.crop_plan import plan_of
from pipeline.config.data import InputConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.operations import LoaderConfig
from pipeline.data.named_images import index_named_images
from pipeline.evaluation.prediction import Predictor, Settings
from pipeline.models import create_model
from pipeline.models.weights import save_weights
from tests.conftest import REPOSITORY


def test_it_names_the_classes_that_predict_does_and_shows_every_gate(tmp_path, monkeypatch, capsys):
    (script,) = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / "docs" / "python.md").read_text(), re.M | re.S)
    assert len(script.splitlines()) <= 40
    (tmp_path / "gates.py").write_text(script)
    weights, photo = tmp_path / "weights.safetensors", tmp_path / "photo.jpg"
    model = create_model("senet_nano", 1000)
    save_weights(weights, model.state_dict(), {"model": "senet_nano"})
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)).resize((300, 280)).save(photo)
    index = index_named_images([photo], pytest.fail)
    assert index is not None
    settings = Settings(plan_of("center224"), ExecutionConfig(), InputConfig(), LoaderConfig(), batch=1)
    (predicted,) = Predictor(weights, settings, torch.device("cpu")).predictions(index, top=5)

    monkeypatch.setattr(sys, "argv", ["gates.py", str(weights), str(photo)])
    runpy.run_path(str(tmp_path / "gates.py"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[1] for words in lines[:5]] == [one["class"] for one in predicted["predictions"]]
    assert [words[0] for words in lines[5:]] == list(model.se_modules())
