from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.__main__ import main
from pipeline.data.named_images import index_named_images
from pipeline.evaluation.prediction import Predictor, Settings
from tests.stages.test_evaluate_alone import WNIDS, evaluate, make_val, recipe, weights

__all__ = ["weights"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    make_val(root, {WNIDS[label]: [f"{number}.JPEG" for number in (1, 22, 333)] for label in (3, 700, 900)})
    return root


def ask(capfd: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    assert main(["predict", *map(str, arguments)]) == code
    return capfd.readouterr()


def test_log_probabilities_are_those_of_evaluate_bit_for_bit(images, weights, tmp_path, capfd):
    config = recipe(images, weights)
    found = evaluate(config, tmp_path / "run")
    (plan,) = config.evaluate.plans
    settings = Settings(plan, config.execution, config.input, config.loader, config.evaluate.batch)
    predictor = Predictor(weights, settings, torch.device("cpu"))
    index = index_named_images([images / "val"], pytest.fail)
    assert index is not None
    scores = np.concatenate(list(predictor.scores(index)))
    assert scores.tobytes() == found["array"].tobytes()


def test_files_folders_and_a_tar_are_answered_as_a_table_and_as_json(images, weights, tmp_path, capfd):
    (plan := tmp_path / "tiny.yaml").write_text("name: tiny\ncrops: [{resize_px: 40, crop_px: 32}]\n")
    one = images / "val" / WNIDS[3] / "1.JPEG"
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(one, "inside/1.JPEG")
        archive.add(plan, "notes.txt")
    given = (weights, one, images / "val" / WNIDS[700], tmp_path / "images.tar", "--plan", plan)
    lines = [json.loads(line) for line in ask(capfd, *given, "--json")[0].splitlines()]
    assert [line["image"] for line in lines] == [
        str(one),
        *(f"{images}/val/{WNIDS[700]}/{number}.JPEG" for number in (1, 22, 333)),
        f"{tmp_path}/images.tar:inside/1.JPEG",
    ]
    assert all(len(line["predictions"]) == 5 for line in lines)
    assert lines[0]["predictions"] == lines[-1]["predictions"]
    best = lines[0]["predictions"][0]
    assert best["class"] == WNIDS[best["label"]]
    assert best["probability"] == pytest.approx(np.exp(best["log_probability"]), abs=1e-6)
    shown = ask(capfd, *given, "--top", "1")[0]
    assert str(one) in shown
    assert f"{100 * best['probability']:.2f} %" in shown
    assert best["words"] in shown
    assert not (tmp_path / "runs").exists()


def test_what_is_no_image_is_named_and_the_others_are_answered(images, weights, tmp_path, capfd):
    (broken := tmp_path / "broken.jpg").write_bytes(b"no image at all")
    one = images / "val" / WNIDS[3] / "1.JPEG"
    out, err = ask(capfd, weights, broken, one, "--json", code=2)
    assert [json.loads(line)["image"] for line in out.splitlines()] == [str(one)]
    assert f"{broken}: not an image" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.safetensors", "x.jpg"), "WEIGHTS: nothing there (given nowhere.safetensors)"),
        (
            ("{weights}", "x.jpg", "--plan", "11crop"),
            "no built-in crop plan '11crop' (there are: 10crop, ",
        ),
        (("{weights}", "nowhere.jpg"), "nowhere.jpg: nothing there; give image files, folders"),
    ],
)
def test_mistakes_are_named(weights, capfd, arguments, message):
    assert message in ask(capfd, *(word.format(weights=weights) for word in arguments), code=2)[1]
