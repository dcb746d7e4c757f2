"""`launch fuse` and `launch score` as a person meets them, and that neither needs torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch.__main__ import main
from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR
from tests.conftest import REPOSITORY
from tests.evaluation.ensemble_members import make_index, make_scores, write_scores


@pytest.fixture
def members(tmp_path: Path) -> Path:
    """A folder with the score files of three crop plans, and not beside it the index of their images."""
    index = make_index(tmp_path / "prepare-0", num_images=60)
    for seed, plan in enumerate(("center", "corners", "many")):
        write_scores(tmp_path / "below" / "scores", plan, make_scores(index.labels, 8, seed, 3.0), index)
    return tmp_path / "below" / "scores"


def launch(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_score_files_are_fused_into_a_new_folder_with_a_table(
    tmp_path: Path, members: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "below" / "fused"
    assert launch("fuse", members, "--images", tmp_path, "--select", "greedy", "--out", out) == EXIT_DONE
    shown = capsys.readouterr().out
    figures = json.loads((out / "fused.json").read_text())
    for member in figures["members"]:
        assert f"{member['name']} " in shown
        assert f"{member['alone']['top1']['percent']:.2f} %" in shown
    error = figures["errors"]["top1"]
    assert f"top-1 {error['low']:.2f} to {error['high']:.2f} %" in shown
    assert "no contest files: data.dataset is folder, not imagenet" in shown
    best = {k: figures["members"][number]["name"] for k, number in figures["best_member"].items()}
    assert f"with the best member alone (top-1: {best['top1']}, top-5: {best['top5']})" in shown
    assert sorted(path.name for path in out.iterdir()) == ["fused.json", "scores-fused.npy", "scores-fused.seal.json"]
    assert str(figures["disagreement_percent"][0][1])[:4] in shown


def test_a_fusion_is_fused_again_without_naming_the_images(tmp_path: Path, members: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    two = [members / f"scores-{plan}.npy" for plan in ("center", "corners")]
    assert launch("fuse", *two, "--images", tmp_path, "--out", first) == EXIT_DONE
    assert launch("fuse", first, members / "scores-many.npy", "--weights", "2,1", "--out", second) == EXIT_DONE
    weights = [member["weight"] for member in json.loads((second / "fused.json").read_text())["members"]]
    assert weights == pytest.approx([2 / 3, 1 / 3], abs=1e-6)


def test_a_sweep_is_fused_from_all_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = make_index(tmp_path / "prepare-0", num_images=60)
    for seed in (1, 2):
        scores = make_scores(index.labels, 8, seed, 3.0)
        write_scores(tmp_path / "sweep" / f"seed{seed}", "center", scores, index)
    (tmp_path / "sweep" / "sweep.json").write_text('{"members": {"seed1": {"seed": 1}, "seed2": {"seed": 2}}}')
    assert launch("fuse", tmp_path / "sweep", "--images", tmp_path, "--out", tmp_path / "out") == EXIT_DONE
    names = [member["name"] for member in json.loads((tmp_path / "out" / "fused.json").read_text())["members"]]
    assert names == ["seed1:center", "seed2:center"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "1,x"], "--weights: must be numbers with commas between them or the folder of a fusion"),
        (["--weights", "1,-2,1"], "--weights: must be finite numbers greater than 0 (given 1,-2,1)"),
        (["--weights", "1,nan,1"], "--weights: must be finite numbers greater than 0 (given 1,nan,1)"),
        (["--weights", "inf,1,1"], "--weights: must be finite numbers greater than 0 (given inf,1,1)"),
        (["--weights", "1,2"], "must be 3 numbers, one for each member: center, corners, many (given 2)"),
        (
            ["--weights", "1,1,1", "--select", "greedy"],
            "--weights: are given or chosen, not both; leave --weights or --select out\n",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused_and_nothing_is_written(
    tmp_path: Path, members: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    assert launch("fuse", members, "--images", tmp_path, "--out", tmp_path / "out", *arguments) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_exists_is_not_overwritten(
    tmp_path: Path, members: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in members.iterdir()}
    assert launch("fuse", members, "--images", tmp_path, "--out", members) == EXIT_USER_ERROR
    assert "exists already, and nothing is overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in members.iterdir()} == before


def test_scores_whose_images_are_not_known_are_refused(members: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("fuse", members, "--out", members.parent / "out") == EXIT_USER_ERROR
    assert "give the run whose prepare stage has it (--images RUN)" in capsys.readouterr().err


def write_predictions(tmp_path: Path, ids: np.ndarray, truth: np.ndarray) -> tuple[Path, Path]:
    np.savetxt(tmp_path / "predictions.txt", ids, "%d")
    np.savetxt(tmp_path / "truth.txt", truth, "%d")
    return tmp_path / "predictions.txt", tmp_path / "truth.txt"


def test_a_file_of_predictions_is_scored_with_and_without_the_blacklist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.random.default_rng(1).integers(1, 1001, 200)
    others = [(truth + step) % 1000 + 1 for step in range(4)]
    ids = np.column_stack([np.where(np.arange(200) < 150, truth, 1001 - truth), *others])
    predictions, truth_file = write_predictions(tmp_path, ids, truth)
    (tmp_path / "blacklist.txt").write_text("\n".join(map(str, range(151, 171))) + "\n")
    assert launch("score", predictions, "--truth", truth_file, "--blacklist", tmp_path / "blacklist.txt") == EXIT_DONE
    out, err = capsys.readouterr()
    assert "200 images; read as ILSVRC2012_IDs, surest first (the form of 2012)" in out
    expected = 100 * np.mean([row.count(label) == 0 for row, label in zip(ids.tolist(), truth.tolist(), strict=True)])
    assert f"the contest's figure: {expected:.3f} % flat error with 5 predictions, all images" in out
    assert "without the 20 blacklisted (not the contest's figure)" in out
    assert "25.000 %" in out
    assert f"{100 * 30 / 180:.3f} %" in out
    assert err == ""


def test_a_file_in_the_wrong_order_is_scored_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_of_id = {synset.ilsvrc2012_id: label for label, synset in enumerate(read_ilsvrc2012().synsets)}
    truth = np.random.default_rng(1).integers(1, 1001, 200)
    by_wnid = np.array([[label_of_id[int(label)] + 1] for label in truth])
    predictions, truth_file = write_predictions(tmp_path, by_wnid, truth)
    assert launch("score", predictions, "--truth", truth_file) == EXIT_DONE
    out, err = capsys.readouterr()
    assert "the contest's figure: 100.000 %" in out
    assert "its lines make sense as places in the sorted order of the WordNet ids, from 1" in err


def test_neither_command_imports_torch(tmp_path: Path, members: Path) -> None:
    predictions, truth = write_predictions(tmp_path, np.ones((3, 5)), np.ones(3))
    fuse = ["fuse", str(members), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    code = (
        "import sys; from launch.__main__ import main\n"
        f"assert main({fuse}) == 0\nassert main(['score', {str(predictions)!r}, '--truth', {str(truth)!r}]) == 0\n"
        "assert not {'torch', 'torchvision', 'matplotlib', 'wandb'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
