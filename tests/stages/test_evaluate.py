from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.config.crop_plan import CropGroup, CropPlan
from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from pipeline.data.batch import CropImages
from pipeline.data.normalisation import Preprocessor
from pipeline.data.preprocessing import Preprocessing
from pipeline.evaluation import loading
from pipeline.evaluation.inference import PlanScorer
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import read_scores as read_score_file
from pipeline.evaluation.validation import validate
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import EXIT_DONE, EXIT_STOPPED, EXIT_USER_ERROR
from pipeline.ground.ranks import Ranks
from pipeline.interop.known import Published
from pipeline.models import create_model
from pipeline.models.weights import load_weights, read_weights, save_weights
from pipeline.running.attempts import read_outcome
from pipeline.running.named_files import record_files
from pipeline.running.runner import run_stage
from pipeline.running.stage import Stage, parts_of, place_stages
from pipeline.store.file import sha256_of
from pipeline.store.seal import SEAL, is_sealed, read_seal
from pipeline.tracking.events import EventLog, read_events
from stages import STAGES
from tests.evaluation.small_run import (
    CENTER,
    MANY,
    NUM_CLASSES,
    NUM_IMAGES,
    evaluate_directory,
    make_config,
    make_run,
    make_weights,
    prepare,
    read_index,
)
from tests.processes import finish, run_stage_to_end, start_stage
from tests.sealed import seal_part

pytestmark = pytest.mark.slow

PLANS = (CENTER, MANY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and weights that all runs of this file share."""
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def finished(folder: Path) -> dict[int, Path]:
    """The evaluate directory of a run at each of several world sizes."""
    directories = {}
    for world_size in (1, 2, 3, 5):
        run = make_run(folder, f"world-{world_size}")
        run_stage_to_end(run, "evaluate", world_size)
        directories[world_size] = evaluate_directory(run, make_config(folder))
    return directories


@pytest.fixture(scope="module")
def by_hand(folder: Path, finished: dict[int, Path]) -> dict[str, npt.NDArray[np.float64]]:
    """Each plan's probabilities by PIL, one crop after the other through the network."""
    config = make_config(folder)
    index = read_index(folder / "world-1", config)
    model = create_model("senet_nano", NUM_CLASSES)
    load_weights(model, folder / "weights.safetensors")
    model.eval()
    return {
        plan.name: np.array([score_by_hand(model, config, plan, index.file(row)) for row in range(len(index))])
        for plan in PLANS
    }


@pytest.fixture(scope="module")
def killed(folder: Path) -> Path:
    """A run whose evaluation, in parts of 4 images, was killed when some parts of its second plan were there."""
    run = make_run(folder, "killed", batch=1)
    (process,) = start_stage(run, "evaluate")
    wait_for_parts(evaluate_directory(run, make_config(folder, batch=1)) / "parts-many", 2)
    process.kill()
    assert finish([process]) == [-signal.SIGKILL]
    return run


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> Path:
    """The evaluate directory of the same evaluation, never interrupted."""
    run = make_run(folder, "unbroken", batch=1)
    run_stage_to_end(run, "evaluate")
    return evaluate_directory(run, make_config(folder, batch=1))


def wait_for_parts(parts: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(parts.glob("0*.seal.json"))) < count:
        assert time.monotonic() < deadline, f"no {count} parts appeared in {parts}"
        time.sleep(0.001)


def run_evaluate(config: Config, run: Path, stages: tuple[Stage, ...] = STAGES) -> int:
    """In this process, which tests look into."""
    return run_stage("evaluate", config, run, stages)


def copy_run(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target / run.name))


def read_scores(directory: Path, plan: CropPlan) -> npt.NDArray[np.float16]:
    scores: npt.NDArray[np.float16] = np.load(directory / f"scores-{plan.name}.npy", allow_pickle=False)
    return scores


def read_results(directory: Path) -> dict[str, Any]:
    """results.json without the times."""
    results: dict[str, Any] = json.loads((directory / "results.json").read_text())
    for plan in results["plans"]:
        del plan["seconds"]
    return results


def assert_same_outcome(directory: Path, expected: Path) -> None:
    for plan in PLANS:
        name = f"scores-{plan.name}.npy"
        assert (directory / name).read_bytes() == (expected / name).read_bytes()
    assert read_results(directory) == read_results(expected)
    assert [event["plan"] for event in read_events(directory, "evaluation")] == [plan.name for plan in PLANS]
    assert not list(directory.glob("parts-*"))


def test_scores_and_counts_are_the_same_bits_at_world_sizes_1_2_3_and_5(finished: dict[int, Path]) -> None:
    for directory in finished.values():
        assert_same_outcome(directory, finished[1])


@pytest.mark.parametrize(
    # Bounds on the mean difference of probabilities. Omitting one of the eleven crops, or adding one, makes 0.015. The
    # reference loader rounds a few pixels otherwise than PIL does, DALI more of them (see the loaders' parity tests).
    ("backend", "bound"),
    [("reference", 0.003), ("dali", 0.012)],
)
def test_scores_are_those_of_pil_crops_one_by_one_through_the_network(
    folder: Path, by_hand: dict[str, npt.NDArray[np.float64]], tmp_path: Path, backend: str, bound: float
) -> None:
    config = with_section(make_config(folder), "loader", backend=backend)
    run = copy_run(folder / "world-1", tmp_path)
    assert run_evaluate(config, run) == EXIT_DONE
    for plan in PLANS:
        stored = np.exp(read_scores(evaluate_directory(run, config), plan).astype(np.float64))
        assert np.abs(stored - by_hand[plan.name]).mean() < bound


def with_section(config: Config, section: str, **keys: object) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=keys)})


def score_by_hand(model: torch.nn.Module, config: Config, plan: CropPlan, path: str) -> npt.NDArray[np.float64]:
    """Mean class probabilities, written down from the definition of a crop plan and nothing else."""
    image = Image.open(path).convert("RGB")
    probabilities = []
    for group in plan.crops:
        assert group.crop_px is not None
        scale = group.resize_px / min(image.size)
        width, height = (group.resize_px if side == min(image.size) else int(side * scale) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        right, bottom = width - group.crop_px, height - group.crop_px
        corner = {
            "top_left": (0, 0),
            "top_right": (right, 0),
            "bottom_left": (0, bottom),
            "bottom_right": (right, bottom),
            "center": (round(right / 2), round(bottom / 2)),
        }
        for position in group.positions:
            left, top = corner[position]
            crop = np.array(resized.crop((left, top, left + group.crop_px, top + group.crop_px)), dtype=np.float32)
            for seen in (crop, crop[:, ::-1]) if group.mirror else (crop,):
                pixels = (seen - np.array(config.input.mean)) / np.array(config.input.std)
                with torch.no_grad():
                    logits = model(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)))
                probabilities.append(logits.double().softmax(1)[0].numpy())
    return np.mean(probabilities, axis=0)


def test_errors_and_loss_agree_with_validation_during_training(folder: Path, finished: dict[int, Path]) -> None:
    config = make_config(folder)
    index = read_index(folder / "world-1", config)
    model = create_model("senet_nano", NUM_CLASSES)
    load_weights(model, folder / "weights.safetensors")
    preprocessor = Preprocessor(config.input, config.augmentation, torch.device("cpu"), channels_last=True)
    validation = validate(model, index, MANY, config, Collective(Ranks(), 60), preprocessor)
    many = read_results(finished[1])["plans"][1]
    assert many["top1_error_percent"] == validation.top1_error_percent
    assert many["top5_error_percent"] == validation.top5_error_percent
    stored = read_scores(finished[1], MANY).astype(np.float64)[np.arange(NUM_IMAGES), index.labels]
    assert -stored.mean() == pytest.approx(validation.loss, rel=1e-3)


def test_results_and_seal_are_counted_from_the_stored_scores(folder: Path, finished: dict[int, Path]) -> None:
    directory = finished[1]
    labels = read_index(folder / "world-1", make_config(folder)).labels
    results = read_results(directory)
    assert results["weights"]["sha256"] == sha256_of(folder / "weights.safetensors")
    assert (results["images"], results["classes"]) == (NUM_IMAGES, NUM_CLASSES)
    seal = read_seal(directory, "stage")
    assert seal is not None
    for plan, crops, result in zip(PLANS, (1, 11), results["plans"], strict=True):
        order = np.argsort(-read_scores(directory, plan).astype(np.float64), axis=1, kind="stable")
        errors = [int((order[:, :k] != labels[:, None]).all(axis=1).sum()) for k in (1, 5)]
        assert [result["top1_errors"], result["top5_errors"]] == errors
        assert seal.about["metrics"][plan.name] == {
            "top1_error_percent": 100 * errors[0] / NUM_IMAGES,
            "top5_error_percent": 100 * errors[1] / NUM_IMAGES,
            "crops": crops,
        }
        assert result["scores"]["sha256"] == seal.files[f"scores-{plan.name}.npy"].sha256
        table = (directory / result["per_class"]).read_text().splitlines()
        assert len(table) == 1 + NUM_CLASSES
        assert sum(int(line.split("\t")[4]) for line in table[1:]) == errors[0]
        worst = result["mistakes"][0]
        assert worst["label"] == labels[worst["position"]]
        assert worst["predicted"] == order[worst["position"], 0] != worst["label"]
    assert seal.about["images"] == {"val": read_index(folder / "world-1", make_config(folder)).digest}
    assert {"results.json", "scores-many.npy", "scores-many.seal.json", "per-class-many.tsv"} <= set(seal.files)


def test_killed_evaluation_goes_on_to_the_same_bits(folder: Path, killed: Path, unbroken: Path, tmp_path: Path) -> None:
    run = copy_run(killed, tmp_path)
    # Goes on with another world size than it began with.
    run_stage_to_end(run, "evaluate", world_size=2)
    assert_same_outcome(evaluate_directory(run, make_config(folder, batch=1)), unbroken)


def test_finished_parts_are_not_computed_again(
    folder: Path, killed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(killed, tmp_path)
    config = make_config(folder, batch=1)
    directory = evaluate_directory(run, config)
    marker = np.full((4, NUM_CLASSES), -1.5, dtype=np.float16)
    seal = read_seal(directory / "parts-many" / "00000000.npy", "part")
    assert seal is not None
    parts = PartFolder(directory / "parts-many", seal.about["key"], NUM_IMAGES, NUM_CLASSES, 4)
    pending, problems = parts.survey()
    assert 0 not in pending
    assert not problems
    parts.write(0, Part(marker, seconds=1.0))
    assert run_evaluate(config, run) == EXIT_DONE
    np.testing.assert_array_equal(read_scores(directory, MANY)[:4], marker)
    assert f"plan 'many': going on with {len(pending)} of 10 parts to do" in "".join(capfd.readouterr())


def test_damaged_part_is_named_and_computed_again(
    folder: Path, killed: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(killed, tmp_path)
    config = make_config(folder, batch=1)
    part = evaluate_directory(run, config) / "parts-many" / "00000000.npy"
    content = bytearray(part.read_bytes())
    content[-40] ^= 1
    part.write_bytes(content)
    assert run_evaluate(config, run) == EXIT_DONE
    shown = "".join(capfd.readouterr())
    assert (
        shown.count(f"{part}: its content has changed since it was written (SHA-256 differs); it is computed again")
        == 1
    )
    assert_same_outcome(evaluate_directory(run, config), unbroken)


def test_part_of_other_weights_is_named_and_computed_again(
    folder: Path, killed: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(killed, tmp_path)
    config = make_config(folder, batch=1)
    parts = evaluate_directory(run, config) / "parts-many"
    foreign = PartFolder(parts, "another", NUM_IMAGES, NUM_CLASSES, 4)
    foreign.write(1, Part(np.zeros((4, NUM_CLASSES), np.float16), seconds=1.0))
    assert run_evaluate(config, run) == EXIT_DONE
    expected = f"{parts / '00000001.npy'}: made from other weights, images or settings; it is computed again"
    assert expected in "".join(capfd.readouterr())
    assert_same_outcome(evaluate_directory(run, config), unbroken)


@pytest.mark.parametrize("moment", ["scores", "seal", "first event", "results", "stage's seal"])
def test_killed_between_any_two_files_it_ends_the_same(
    folder: Path, finished: dict[int, Path], tmp_path: Path, moment: str
) -> None:
    """`moment`: the last thing that was written before the process died."""
    run = copy_run(folder / "world-1", tmp_path)
    config = make_config(folder)
    directory = evaluate_directory(run, config)
    if moment != "stage's seal":
        (directory / SEAL).unlink()
    if moment in ("scores", "seal", "first event"):
        (directory / "results.json").unlink()
        # In the plans' order: the second was not there yet.
        (directory / "scores-many.npy").unlink()
        (directory / "scores-many.seal.json").unlink()
        first, _second = (directory / "events.jsonl").read_bytes().splitlines(keepends=True)
        (directory / "events.jsonl").write_bytes(first if moment == "first event" else b"")
    if moment == "scores":
        (directory / "scores-center.seal.json").unlink()
    assert run_evaluate(config, run) == EXIT_DONE
    assert_same_outcome(directory, finished[1])


def test_damaged_scores_are_named_and_made_again_and_so_is_their_event(
    folder: Path, finished: dict[int, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    config = make_config(folder)
    directory = evaluate_directory(run, config)
    (directory / SEAL).unlink()
    (directory / "scores-center.npy").write_bytes(b"junk")
    stale = [{**event, "top1_error_percent": -1.0} for event in read_events(directory)]
    with contextlib.closing(EventLog(directory)) as events:
        events.rewind(None)
        for event in stale:
            events.write(**{name: value for name, value in event.items() if name not in ("time", "number", "crc")})
    assert run_evaluate(config, run) == EXIT_DONE
    path = directory / "scores-center.npy"
    told = f"{path}: 4 bytes, {path.stat().st_size} when it was written; it is computed again"
    assert "".join(capfd.readouterr()).count(told) == 1
    assert_same_outcome(directory, finished[1])
    assert all(event["top1_error_percent"] >= 0 for event in read_events(directory, "evaluation"))


@pytest.mark.parametrize("world_size", [1, 2])
def test_asked_to_stop_it_stops_at_the_next_batch_and_the_same_command_goes_on(
    folder: Path, unbroken: Path, world_size: int
) -> None:
    run = make_run(folder, f"stopped-{world_size}", batch=1)
    directory = evaluate_directory(run, make_config(folder, batch=1))
    processes = start_stage(run, "evaluate", world_size)
    wait_for_parts(directory / "parts-many", 1)
    pid = processes[-1].pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)  # one rank hears of it, all stop
    # Ranks that stop together leave with 0; the note says how it ended.
    assert finish(processes) == ([EXIT_STOPPED] if world_size == 1 else [EXIT_DONE, EXIT_DONE])
    outcome = read_outcome(directory)
    assert outcome is not None
    assert outcome.exit_code == EXIT_STOPPED
    assert outcome.message == "stopped on request while scoring plan 'many'; the same command goes on"
    assert not is_sealed(directory)
    assert len(list((directory / "parts-many").glob("0*.seal.json"))) < 10
    run_stage_to_end(run, "evaluate", world_size)
    assert_same_outcome(directory, unbroken)


def test_weights_of_another_network_end_it_with_the_first_differing_tensors(
    folder: Path, finished: dict[int, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    tensors = read_weights(folder / "weights.safetensors")
    tensors["layer0.conv1.weight"] = torch.zeros(8, 3, 3, 3)
    save_weights(other, tensors, {})
    run = make_run(folder, "other-weights", weights=str(other))
    config = make_config(folder, weights=str(other))
    assert run_evaluate(config, run) == EXIT_USER_ERROR
    assert not is_sealed(evaluate_directory(run, config))
    said = capfd.readouterr().err
    assert str(other) in said
    assert "layer0.conv1.weight is (8, " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_with_file_and_tensor(
    folder: Path, finished: dict[int, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], value: float
) -> None:
    weights = tmp_path / "broken.safetensors"
    tensors = read_weights(folder / "weights.safetensors")
    tensors["layer2.0.conv2.weight"].view(-1)[7] = value
    save_weights(weights, tensors, {})
    run = copy_run(folder / "world-1", tmp_path)
    config = make_config(folder, weights=str(weights))
    assert run_evaluate(config, run) == EXIT_USER_ERROR
    assert f"{weights}: holds NaN or infinity in layer2.0.conv2.weight" in capfd.readouterr().err
    assert not list(evaluate_directory(run, config).glob("scores-*"))


def test_weights_replaced_since_the_run_was_set_up_are_refused(
    folder: Path, finished: dict[int, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "recorded.safetensors"
    make_weights(weights, seed=5)
    run = copy_run(folder / "world-1", tmp_path)
    record_files([weights], run)
    status = weights.stat()
    make_weights(weights, seed=6)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    config = make_config(folder, weights=str(weights))
    assert run_evaluate(config, run) == EXIT_USER_ERROR
    assert f"{weights}: not the file that this run was set up with" in capfd.readouterr().err
    assert not list(evaluate_directory(run, config).glob("scores-*"))


def test_an_answer_that_is_no_number_is_refused_with_its_image(
    folder: Path, finished: dict[int, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "huge.safetensors"
    tensors = read_weights(folder / "weights.safetensors")
    tensors["last_linear.weight"].fill_(3e38)
    save_weights(weights, tensors, {})
    run = copy_run(folder / "world-1", tmp_path)
    config = make_config(folder, weights=str(weights))
    assert run_evaluate(config, run) == EXIT_USER_ERROR
    image = read_index(run, config).name(0)
    assert f"{image}: under plan 'center' the network answers with NaN or infinity" in capfd.readouterr().err
    assert not list(evaluate_directory(run, config).glob("scores-*"))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whenever images pass through the network, the name of the plan they do so for."""
    names: list[str] = []

    class NamingScorer(PlanScorer):
        def __init__(self, model: torch.nn.Module, plan: CropPlan, *others: Any) -> None:
            super().__init__(model, plan, *others)
            self._name = plan.name

        def log_probabilities(self, crops: tuple[CropImages, ...]) -> torch.Tensor:
            names.append(self._name)
            return super().log_probabilities(crops)

    monkeypatch.setattr(loading, "PlanScorer", NamingScorer)
    return names


def test_network_has_its_batch_norms_folded(
    folder: Path, tmp_path: Path, finished: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[torch.nn.Module] = []

    class KeepingScorer(PlanScorer):
        def __init__(self, model: torch.nn.Module, *others: Any) -> None:
            super().__init__(model, *others)
            networks.append(model)

    monkeypatch.setattr(loading, "PlanScorer", KeepingScorer)
    run = copy_run(folder / "world-1", tmp_path)
    config = make_config(folder, plans=[MANY.model_copy(update={"name": "anew", "averaging": "logits"})])
    assert run_evaluate(config, run) == EXIT_DONE
    (network,) = networks
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_a_plan_more_makes_forward_passes_for_itself_alone(
    folder: Path, tmp_path: Path, finished: dict[int, Path], scored: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    dense = CropPlan(name="dense", crops=(CropGroup(resize_px=36, dense="global", mirror=True),))
    renamed = MANY.model_copy(update={"name": "renamed"})
    config = make_config(folder, plans=[renamed, dense, CENTER])
    assert run_evaluate(config, run) == EXIT_DONE
    assert set(scored) == {"dense"}
    earlier, later = (evaluate_directory(run, each) for each in (make_config(folder), config))
    assert f"plan 'renamed': the scores are there already, in {earlier}" in "".join(capfd.readouterr())
    for old, new in (("many", "renamed"), ("center", "center")):
        taken = read_score_file(later / f"scores-{new}.npy")
        assert taken.path.read_bytes() == (finished[1] / f"scores-{old}.npy").read_bytes()
        assert taken.description.plan == new
    results = {plan["name"]: plan for plan in read_results(later)["plans"]}
    assert results["renamed"]["top1_errors"] == read_results(finished[1])["plans"][1]["top1_errors"]
    assert results["dense"]["crops"] == 2
    assert [event["plan"] for event in read_events(later, "evaluation")] == ["renamed", "dense", "center"]


def test_a_plan_more_leaves_the_parts_of_an_unfinished_plan_good(
    folder: Path, killed: Path, unbroken: Path, tmp_path: Path, scored: list[str]
) -> None:
    run = copy_run(killed, tmp_path)
    # In parts of 4 images, each a batch of its own.
    parts = len(list((evaluate_directory(run, make_config(folder, batch=1)) / "parts-many").glob("0*.seal.json")))
    config = make_config(folder, batch=1, plans=[MANY])
    assert run_evaluate(config, run) == EXIT_DONE
    assert len(scored) == NUM_IMAGES - 4 * parts
    assert (evaluate_directory(run, config) / "scores-many.npy").read_bytes() == (
        unbroken / "scores-many.npy"
    ).read_bytes()


def test_scores_of_an_older_version_of_the_stage_are_not_taken_over(
    folder: Path, tmp_path: Path, finished: dict[int, Path], scored: list[str]
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    stages = tuple(dataclasses.replace(stage, version=stage.version + (stage.name == "evaluate")) for stage in STAGES)
    assert run_evaluate(make_config(folder), run, stages) == EXIT_DONE
    assert set(scored) == {CENTER.name, MANY.name}


def test_description_says_which_images_classes_and_weights(folder: Path, finished: dict[int, Path]) -> None:
    index = read_index(folder / "world-1", make_config(folder))
    description = read_score_file(finished[1] / "scores-many.npy").description
    weights = folder / "weights.safetensors"
    assert (description.weights, description.weights_sha256) == (str(weights), sha256_of(weights))
    assert (description.plan, description.averaging, description.split) == ("many", "probabilities", "val")
    assert (description.images, description.classes) == (NUM_IMAGES, NUM_CLASSES)
    names = "\n".join(name.rpartition("/")[2] for name in index.names)
    assert description.images_sha256 == hashlib.sha256(names.encode()).hexdigest()
    folders = "\n".join(str(label) for label in range(NUM_CLASSES))
    assert description.classes_sha256 == hashlib.sha256(folders.encode()).hexdigest()


def test_images_without_labels_get_scores_and_no_errors(
    folder: Path, finished: dict[int, Path], tmp_path: Path
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    # Past the schema, which knows test images of ImageNet alone.
    config = with_section(with_section(make_config(folder), "data", test="images"), "evaluate", split="test")
    placed = place_stages(config, run, STAGES)
    assert "report" not in placed
    prepare(folder, run, config)
    assert run_evaluate(config, run) == EXIT_DONE
    directory = placed["evaluate"].directory
    for plan in PLANS:
        np.testing.assert_array_equal(read_scores(directory, plan), read_scores(finished[1], plan))
    assert read_score_file(directory / "scores-many.npy").description.split == "test"
    results = read_results(directory)
    assert (results["split"], results["images"]) == ("test", NUM_IMAGES)
    assert [sorted(plan) for plan in results["plans"]] == [["crops", "images", "name", "scores"]] * 2
    seal = read_seal(directory, "stage")
    assert seal is not None
    assert seal.about["metrics"] == {"center": {"crops": 1}, "many": {"crops": 11}}
    assert not list(directory.glob("per-class-*"))


def test_a_weight_files_own_preprocessing_is_used_and_told(
    folder: Path, tmp_path: Path, finished: dict[int, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    mean, std = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    in_recipe = with_section(make_config(folder), "input", mean=mean, std=std)
    assert run_evaluate(in_recipe, run) == EXIT_DONE
    capfd.readouterr()
    scores = {}
    for name, preprocessing in {
        "same": Preprocessing(mean, std, "bilinear_antialias"),
        "resize": Preprocessing(mean, std, "bilinear"),
        "max_pool": Preprocessing(mean, std, "bilinear_antialias", "padded"),
    }.items():
        weights = tmp_path / f"{name}.safetensors"
        save_weights(weights, read_weights(folder / "weights.safetensors"), preprocessing.metadata())
        config = make_config(folder, weights=str(weights))
        assert run_evaluate(config, run) == EXIT_DONE
        said = f"{weights} asks for other preprocessing than the recipe's, and gets it: {preprocessing.sentence()}"
        assert said in "".join(capfd.readouterr())
        directory = evaluate_directory(run, config)
        assert read_results(directory)["preprocessing"] == preprocessing.metadata()
        scores[name] = read_scores(directory, CENTER).astype(np.float64)
    expected = read_scores(evaluate_directory(run, in_recipe), CENTER).astype(np.float64)
    np.testing.assert_array_equal(scores["same"], expected)
    for name in ("resize", "max_pool"):
        assert np.abs(scores[name] - expected).mean() > 0.01


def test_published_figures_are_told_for_known_weights_and_no_others(
    folder: Path,
    tmp_path: Path,
    finished: dict[int, Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    known = Published("small.pth", "Somebody reports", "cadene", "c0ffee", "senet_nano", 18.0, 4.0)
    asked: list[Mapping[str, str]] = []

    def published(metadata: Mapping[str, str]) -> Published:
        asked.append(metadata)
        return known

    monkeypatch.setattr("stages.evaluate.published", published)
    weights = tmp_path / "known.safetensors"
    save_weights(weights, read_weights(folder / "weights.safetensors"), {"source_layout": "cadene"})
    config = make_config(folder, weights=str(weights))
    assert run_evaluate(config, run) == EXIT_DONE
    told = (
        "Somebody reports 18 / 4 % top-1 / top-5 error for small.pth, on ILSVRC 2012's 50,000 validation images with "
        f"center224; not comparable with {CENTER.name} of {NUM_IMAGES} images"
    )
    assert told in "".join(capfd.readouterr())
    assert asked == [{"source_layout": "cadene"}]
    assert read_results(evaluate_directory(run, config))["published"] == told
    assert read_results(evaluate_directory(run, make_config(folder)))["published"] is None


def test_a_missing_image_is_named_and_finished_scores_stay(
    folder: Path, tmp_path: Path, finished: dict[int, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(folder / "world-1", tmp_path)
    config = with_section(make_config(folder, plans=[CENTER]), "evaluate", batch=37)
    earlier = evaluate_directory(run, make_config(folder))
    content = {file.name: file.read_bytes() for file in earlier.iterdir() if file.is_file()}
    index = read_index(run, config)
    image = Path(index.file(20))
    hidden = image.rename(tmp_path / "hidden.jpg")
    try:
        assert run_evaluate(config, run) == EXIT_USER_ERROR
    finally:
        hidden.rename(image)
    said = capfd.readouterr().err
    assert f"val images: 1 of {NUM_IMAGES} looked at are missing or others" in said
    assert f"{image}: cannot be read (No such file or directory)" in said
    assert "put the old ones back, or begin anew with these in another run (--run)" in said
    assert "Traceback" not in said
    assert not list(evaluate_directory(run, config).glob("scores-*"))
    assert {file.name: file.read_bytes() for file in earlier.iterdir() if file.is_file()} == content


@pytest.mark.parametrize("frozen_epochs", [0, 1])
def test_weights_are_those_of_the_last_training_stage(
    folder: Path, finished: dict[int, Path], tmp_path: Path, frozen_epochs: int
) -> None:
    fields = make_config(folder, weights=None, plans=[CENTER]).model_dump()
    fields["train"]["frozen_epochs"] = frozen_epochs
    config = Config.model_validate(fields)
    run = copy_run(folder / "world-1", tmp_path)
    write_run_config(run, config)
    placed = place_stages(config, run, STAGES)
    trained = [parts_of(placed)[name] for name in ("train", "freeze_bn") if name in placed]
    for seed, part in enumerate(trained):
        part.directory.mkdir()
        make_weights(part.directory / "weights.safetensors", seed=seed)
        seal_part(part, ["weights.safetensors"])
    assert run_evaluate(config, run) == EXIT_DONE
    last = trained[-1].directory / "weights.safetensors"
    weights = read_results(placed["evaluate"].directory)["weights"]
    assert weights == {"path": str(last), "sha256": sha256_of(last)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_bfloat16_on_the_gpu_agrees_with_float32(folder: Path, tmp_path: Path) -> None:
    probabilities = {}
    for name, keys in {
        "plain": {"precision": "float32", "channels_last": False, "compile": False},
        "fast": {"precision": "bfloat16", "channels_last": True, "compile": True},
    }.items():
        run = make_run(folder, f"gpu-{name}")
        config = with_section(make_config(folder), "execution", **keys)
        assert run_evaluate(config, run) == EXIT_DONE
        probabilities[name] = np.exp(read_scores(evaluate_directory(run, config), MANY).astype(np.float64))
    assert np.abs(probabilities["fast"] - probabilities["plain"]).mean() < 0.02
