from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from launch.summary import judge_fusion, print_results
from pipeline.config.reader import write_run_config
from pipeline.ground.errors import EXIT_DONE
from pipeline.running.stage import PlacedStage, place_stages
from stages import STAGES
from tests.launch.finished import finish, finish_prepare
from tests.recipes import small_recipe

PLANS = {"center": 0.84, "corners": 0.84, "many": 0.28}


def fusion(images: int = 359, gain: tuple[float, float, float] = (-0.56, -1.67, 0.56), **others: Any) -> dict[str, Any]:
    """A fusion in which the last of three members is the best, and differs from each on two images in 359."""
    members = [
        {"name": name, "weight": weight, "alone": {"top1": {"percent": percent}}}
        for (name, percent), weight in zip(PLANS.items(), (0.0, 0.25, 0.75), strict=True)
    ]
    gains = dict(zip(("percent", "low", "high"), gain, strict=True))
    matrix = [[0.0 if i == j else 0.557 for i in range(3)] for j in range(3)]
    best = {"best_member": {"top1": 2, "top5": 0}, "gain_over_best_member": {"top1": gains}}
    figures = {"members": members, "images": images, **best}
    return {**figures, "disagreement_percent": matrix, "halves": [{}, {}], **others}


def test_differences_within_chance_are_said_and_why_a_fusion_can_be_the_worse() -> None:
    assert list(judge_fusion(fusion())) == [
        "top-1 error of center, corners: within chance of many's, on 359 images",
        "top-1 error of the fusion: 0.56 points worse than many's alone, within chance "
        "(95 %: 1.67 points worse to 0.56 points better)",
        "a fusion can be worse than its best member: its weights were chosen on other images than it is judged on",
    ]


def test_what_is_more_than_chance_is_not_called_chance() -> None:
    assert list(judge_fusion(fusion(images=50_000, gain=(0.9, 0.7, 1.1)))) == [
        "top-1 error of the fusion: 0.90 points better than many's alone, more than chance "
        "(95 %: 0.70 points better to 1.10 points better)"
    ]


def test_nothing_is_compared_with_a_single_member() -> None:
    single = fusion()
    assert list(judge_fusion({**single, "members": single["members"][:1]})) == []


@pytest.fixture
def placed(tmp_path: Path) -> dict[str, PlacedStage]:
    """A finished run, with what W&B's client left of it offline."""
    config = small_recipe(tmp_path)
    write_run_config(tmp_path, config)
    stages = place_stages(config, tmp_path, STAGES)
    figures = {"images": 359, "members": 3, "top1_error_percent": 0.84}
    finish_prepare(stages["prepare"], 359)
    for name in ("build", "train", "freeze_bn", "report"):
        finish(stages[name])
    finish(stages["evaluate"], {"center32": {"crops": 1, "top1_error_percent": 0.84}})
    finish(stages["fuse"], figures)
    (stages["fuse"].directory / "fused.json").write_text(json.dumps(fusion()))
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    return stages


def test_a_finished_run_ends_with_one_line_to_open_and_one_to_upload(
    placed: dict[str, PlacedStage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(tmp_path, placed)
    shown = capsys.readouterr().out.splitlines()
    assert ["center32", "1", "0.84", "%", "(3", "of", "359)"] in [line.split() for line in shown]
    assert any(line.startswith("fused, 2 of 3 members  ") for line in shown), "one has the weight 0"
    assert shown[-2] == f"report, to open in a browser: {placed['report'].directory}/report.html"
    assert shown[-1].startswith("Weights & Biases was offline; to upload: ")
    assert shown[-1].endswith(f"python -m wandb sync {tmp_path}/wandb/offline-run-*")
    (tmp_path / "wandb" / "offline-run-1" / "run-1.wandb.synced").touch()
    print_results(tmp_path, placed)
    assert "wandb" not in capsys.readouterr().out, "everything is uploaded"


def test_a_finished_run_says_which_overrides_have_no_effect_and_how_to_do_it_once_more(
    placed: dict[str, PlacedStage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(tmp_path / "config.yaml")
    assert main(["run", recipe, "processes=2", "seed=11", "--run", str(tmp_path)]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert f"nothing to do: prepare, build, train, freeze_bn, evaluate, fuse, report are done in {tmp_path}\n" in shown
    assert "\nwithout effect on what is done, since no result depends on it: resources.processes = 2\n" in shown
    assert f"launch run {recipe} processes=2 seed=11 --run {tmp_path}-again\n" in shown
    assert main(["run", recipe, "--run", str(tmp_path)]) == EXIT_DONE
    assert "without effect" not in capsys.readouterr().out
