"""Prepare as a person meets it: what stops it, what it says, and what it leaves."""

from __future__ import annotations

import shlex
import shutil
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.reader import load_config, write_run_config
from pipeline.config.schema import Config
from pipeline.data import layout
from pipeline.data.encoded import EncodedImages
from pipeline.data.findings import read_findings
from pipeline.data.ilsvrc import Ilsvrc, Synset, digest_ids
from pipeline.data.index import UNLABELLED, read_dataset
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext, StageResult
from pipeline.running.stage import place_stages
from pipeline.tracking.events import Event, EventLog
from stages import STAGES, prepare
from tests.data import odd_images
from tests.images import write_image_folders
from tests.processes import finish, fork_context, run_stage_to_end, start_stage
from tests.recipes import small_recipe

OUTPUTS = ("dataset.json", "findings.tsv", "train.tsv", "val.tsv")


@pytest.fixture(autouse=True, scope="module")
def one_fork_server() -> None:
    """The scan's workers come from the server that the tests share, whichever of them starts it."""
    fork_context()


def run_prepare(directory: Path, config: Config) -> tuple[StageResult, list[Event]]:
    """The stage's code in this process, and what it told its listeners."""
    directory.mkdir(exist_ok=True)
    told: list[Event] = []
    events = EventLog(directory, [told.append])
    try:
        context = StageContext(config, directory.parent, directory, {}, Ranks(), events, StopFlag())
        return prepare.run(context), told
    finally:
        events.close()


def digits_recipe() -> Config:
    fields = small_recipe(Path("unused")).model_dump()
    fields["data"].update(dataset="digits", root=None)
    fields["model"]["num_classes"] = 10
    return Config.model_validate(fields)


def outputs_of(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in OUTPUTS}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_folders(tmp_path / "images", num_classes=4, train_per_class=5, val_per_class=3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult, list[Event]]:
    directory = tmp_path_factory.mktemp("digits") / "prepare"
    return directory, *run_prepare(directory, digits_recipe())


def test_digits_become_an_indexed_data_set(digits: tuple[Path, StageResult, list[Event]]) -> None:
    directory, result, told = digits
    dataset = read_dataset(directory)
    assert sorted(result.outputs) == list(OUTPUTS)
    sizes = {"train_images": len(dataset.train), "val_images": len(dataset.val), "classes": 10}
    assert result.metrics == {**sizes, "findings": {}, "flags": {}}
    assert sizes == {"train_images": 1438, "val_images": 359, "classes": 10}
    assert [one.words for one in dataset.classes][:3] == ["zero", "one", "two"]
    assert set(dataset.train.widths) == set(dataset.train.heights) == {32}
    with Image.open(dataset.train.file(1437)) as image:
        assert image.size == (32, 32)
    progress = [event for event in told if event["kind"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["unit"]) == (1797, 1797, "images")
    assert {path.name for path in directory.iterdir()} == {*OUTPUTS, "images", "events.jsonl"}


def test_same_data_give_the_same_bytes_and_can_be_moved(
    digits: tuple[Path, StageResult, list[Event]], tmp_path: Path
) -> None:
    run_prepare(tmp_path / "again", digits_recipe())
    assert outputs_of(tmp_path / "again") == outputs_of(digits[0])
    (tmp_path / "again").rename(tmp_path / "moved")
    assert Path(read_dataset(tmp_path / "moved").val.file(0)).is_file()


def test_shards_are_written_once_for_all_runs_and_the_index_reads_from_them(tmp_path: Path, images: Path) -> None:
    config = small_recipe(images, data={"dataset": "folder", "shards": str(tmp_path / "shards")})
    result, told = run_prepare(tmp_path / "prepare", config)
    assert sorted(set(result.outputs) - set(OUTPUTS)) == [
        "train-places.npy",
        "train-shards.json",
        "val-places.npy",
        "val-shards.json",
    ]
    assert all((tmp_path / "prepare" / name).is_file() for name in result.outputs)
    assert {path.name for path in (tmp_path / "shards").glob("*.tar")} == {"train-00000.tar", "val-00000.tar"}
    texts = [event["text"] for event in told if event["kind"] == "progress"]
    assert list(dict.fromkeys(texts)) == ["checking every image", "writing shards"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")}
    run_prepare(tmp_path / "again", config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")} == before
    dataset = read_dataset(tmp_path / "again")
    for index in (dataset.train, dataset.val):
        with EncodedImages(index, np.arange(len(index))) as encoded:
            for position in range(len(index)):
                assert encoded.read(position) == Path(index.file(position)).read_bytes()


def test_only_training_images_are_ever_resized(tmp_path: Path, images: Path) -> None:
    data = {"dataset": "folder", "shards": str(tmp_path / "shards"), "resize_train_px": 33}
    run_prepare(tmp_path / "plain", small_recipe(images))
    run_prepare(tmp_path / "resized", small_recipe(images, data=data))
    plain, resized = read_dataset(tmp_path / "plain"), read_dataset(tmp_path / "resized")
    assert resized.val.digest == plain.val.digest
    assert resized.train.digest != plain.train.digest
    assert max(np.minimum(resized.train.widths, resized.train.heights)) == 33


def test_bad_images_stop_the_stage_with_the_list_and_the_way_out(tmp_path: Path, images: Path) -> None:
    (images / "train" / "class_01" / "3.jpg").write_bytes(b"<html>")
    (images / "val" / "class_00" / "it's here.jpg").write_bytes(b"")
    (images / "val" / "class_02" / "folder.jpg").mkdir()
    with pytest.raises(UserError) as caught:
        run_prepare(tmp_path / "prepare", small_recipe(images))
    *listed, way_out = str(caught.value).splitlines()
    assert listed == [
        f"data: 3 images cannot be used (listed in {tmp_path}/prepare/findings.tsv):",
        "  train/class_01/3.jpg: not_an_image (begins with b'<html>')",
        "  val/class_00/it's here.jpg: empty (0 bytes)",
        "  val/class_02/folder.jpg: not_a_file (a folder)",
    ]
    findings = read_findings(tmp_path / "prepare")
    assert [found.severity for found in findings] == ["error"] * 3
    assert not (tmp_path / "prepare" / "dataset.json").exists()

    write_run_config(tmp_path, small_recipe(images))
    (override,) = shlex.split(way_out.split("leave them out: ")[1])
    result, _ = run_prepare(tmp_path / "prepare", load_config(tmp_path / "config.yaml", [override]))
    assert result.metrics["findings"] == {"excluded": 3}
    assert (result.metrics["train_images"], result.metrics["val_images"]) == (19, 12)


def test_repaired_image_is_taken_by_the_same_command(tmp_path: Path, images: Path) -> None:
    image = images / "train" / "class_01" / "3.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-300])
    with pytest.raises(UserError, match=r"train/class_01/3\.jpg: truncated"):
        run_prepare(tmp_path / "prepare", small_recipe(images))
    image.write_bytes(content)
    result, _ = run_prepare(tmp_path / "prepare", small_recipe(images))
    assert result.metrics["train_images"] == 20


def test_long_list_of_bad_images_is_cut_on_the_screen_and_whole_in_the_file(tmp_path: Path, images: Path) -> None:
    for number in range(25):
        (images / "train" / "class_00" / f"bad_{number:02d}.jpg").touch()
    with pytest.raises(
        UserError, match=r"25 images cannot be used(.|\n)* and 5 more\n.*name them all in data\.exclude"
    ):
        run_prepare(tmp_path / "prepare", small_recipe(images))
    assert len(read_findings(tmp_path / "prepare")) == 25


def test_odd_but_good_images_are_taken_and_listed(tmp_path: Path, images: Path) -> None:
    for name, (content, _) in odd_images.accepted().items():
        (images / "train" / "class_00" / name).write_bytes(content)
    result, _ = run_prepare(tmp_path / "prepare", small_recipe(images))
    train = read_dataset(tmp_path / "prepare").train
    by_path = dict(zip(train.paths, train.flags, strict=True))
    for name, (_, flags) in odd_images.accepted().items():
        assert by_path[f"class_00/{name}"] == ",".join(flags)
    listed = {(found.path, found.finding, found.severity) for found in read_findings(tmp_path / "prepare")}
    assert ("class_00/cmyk.jpg", "cmyk", "notice") in listed
    assert ("class_00/png_inside.JPEG", "not_jpeg_inside", "notice") in listed
    assert ("class_00/png_inside.JPEG", "duplicate", "warning") in listed
    assert result.metrics["flags"]["exif_rotated"] == 3


def test_training_image_among_the_validation_images_is_a_warning(tmp_path: Path, images: Path) -> None:
    shutil.copy(images / "train" / "class_00" / "0.jpg", images / "val" / "class_01" / "leak.jpg")
    result, told = run_prepare(tmp_path / "prepare", small_recipe(images))
    assert result.metrics["findings"] == {"duplicate_across_splits": 1}
    (note,) = [event for event in told if event["kind"] == "note"]
    assert note["level"] == "warning"
    assert note["text"].startswith("findings of kind duplicate_across_splits: 1 (listed in ")


def test_flat_imagenet_is_labelled_by_the_devkits_file(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = (2, 4, 1, 3)
    synsets = tuple(Synset(f"class_{label:02d}", ids[label], 5, f"word {label}") for label in range(4))
    truth = (1, 1, 3, 2, 4)
    monkeypatch.setattr(layout, "read_ilsvrc2012", lambda: Ilsvrc(synsets, len(truth), 2, digest_ids(truth)))
    (tmp_path / "truth.txt").write_text("\n".join(map(str, truth)) + "\n")
    for number in range(1, 6):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        shutil.copy(images / "train" / "class_00" / f"{number - 1}.jpg", images / "val" / name)
    for label in range(4):
        shutil.rmtree(images / "val" / f"class_{label:02d}")
    config = small_recipe(images)
    data: dict[str, Any] = {"dataset": "imagenet", "val_ground_truth": str(tmp_path / "truth.txt")}
    excluded = "val/ILSVRC2012_val_00000003.JPEG"
    config = config.model_copy(update={"data": config.data.model_copy(update={**data, "exclude": (excluded,)})})
    result, _ = run_prepare(tmp_path / "prepare", config)
    dataset = read_dataset(tmp_path / "prepare")
    assert dataset.val.labels.tolist() == [2, 2, 0, 1]
    assert [one.ilsvrc2012_id for one in dataset.classes] == list(ids)
    assert dataset.val.paths[2] == "ILSVRC2012_val_00000004.JPEG"
    assert result.metrics["findings"] == {"duplicate_across_splits": 4, "excluded": 1}
    assert dataset.test is None

    (images / "test").mkdir()
    for number, of_class in ((1, 1), (2, 3)):
        name = f"ILSVRC2012_test_{number:08d}.JPEG"
        shutil.copy(images / "train" / f"class_{of_class:02d}" / "0.jpg", images / "test" / name)
    with_test = config.model_copy(update={"data": config.data.model_copy(update={"test": "test"})})
    result, _ = run_prepare(tmp_path / "with_test", with_test)
    unlabelled = read_dataset(tmp_path / "with_test").test
    assert unlabelled is not None
    assert list(unlabelled.paths) == ["ILSVRC2012_test_00000001.JPEG", "ILSVRC2012_test_00000002.JPEG"]
    assert unlabelled.labels.tolist() == [UNLABELLED, UNLABELLED]
    assert result.metrics["test_images"] == 2
    assert result.metrics["findings"] == {"duplicate_across_splits": 6, "excluded": 1}
    assert "test.tsv" in result.outputs

    (images / "test" / "n01440764").mkdir()
    with pytest.raises(UserError, match=r"data\.test: .* must hold the images themselves \(it holds folders: n0144"):
        run_prepare(tmp_path / "prepare", with_test)


def test_imagenets_validation_images_are_in_the_order_of_their_numbers_in_class_folders_too(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = (3, 1, 4, 2)
    synsets = tuple(Synset(f"class_{label:02d}", label + 1, 5, f"word {label}") for label in range(4))
    monkeypatch.setattr(layout, "read_ilsvrc2012", lambda: Ilsvrc(synsets, len(truth), 1, digest_ids(truth)))
    for label in range(4):
        shutil.rmtree(images / "val" / f"class_{label:02d}")
    for number, ilsvrc2012_id in enumerate(truth, start=1):
        folder = images / "val" / f"class_{ilsvrc2012_id - 1:02d}"
        folder.mkdir()
        shutil.copy(images / "train" / folder.name / "0.jpg", folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    config = small_recipe(images)
    config = config.model_copy(update={"data": config.data.model_copy(update={"dataset": "imagenet"})})
    run_prepare(tmp_path / "prepare", config)
    dataset = read_dataset(tmp_path / "prepare")
    assert [path.rpartition("/")[2] for path in dataset.val.paths] == [
        f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 5)
    ]
    assert dataset.val.labels.tolist() == [2, 0, 3, 1]


def test_real_images_pass_as_a_folder_and_not_as_imagenet(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "imagenet_sample.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "root"
    (root / "val").mkdir(parents=True)
    (tmp_path / "imagenet_sample").rename(root / "train")
    # One image each, so that there is something to validate on.
    for folder in (root / "train").iterdir():
        shutil.copytree(folder, root / "val" / folder.name)
    config = small_recipe(root, model={"num_classes": 500})
    result, _ = run_prepare(tmp_path / "prepare", config)
    assert (result.metrics["train_images"], result.metrics["classes"]) == (500, 500)
    assert result.metrics["findings"] == {"duplicate_across_splits": 500}
    dataset = read_dataset(tmp_path / "prepare")
    assert dataset.train.heights.min() > 50
    with Image.open(dataset.train.file(77)) as image:
        assert image.size == (dataset.train.widths[77], dataset.train.heights[77])

    as_imagenet = small_recipe(root, data={"dataset": "imagenet"}, model={"num_classes": 1000})
    with pytest.raises(UserError) as caught:
        run_prepare(tmp_path / "imagenet", as_imagenet)
    message = str(caught.value)
    assert f"{root}/train holds 500 of the 1,000 classes of ILSVRC 2012; missing: n01443537, n01491361" in message
    assert "and 490 more" in message
    assert "holds 500 images, ILSVRC 2012 has 1,281,167" in message
    assert "data.val: " in message


@pytest.mark.faults
def test_killed_scan_goes_on_and_ends_as_if_never_killed(tmp_path: Path) -> None:
    images = write_image_folders(tmp_path / "images", num_classes=40, train_per_class=3, val_per_class=2)
    config = small_recipe(images, model={"num_classes": 40})
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    for run in runs.values():
        run.mkdir()
        write_run_config(run, config)
    directories = {name: place_stages(config, run, STAGES)["prepare"].directory for name, run in runs.items()}
    run_stage_to_end(runs["whole"], "prepare")
    kept: set[str] = set()
    for num_parts in (1, 30):
        (process,) = start_stage(runs["killed"], "prepare")
        parts = wait_for_parts(directories["killed"] / "scan", num_parts)
        process.kill()
        assert finish([process]) == [-signal.SIGKILL]
        assert kept <= parts
        kept = parts
    run_stage_to_end(runs["killed"], "prepare")
    assert outputs_of(directories["killed"]) == outputs_of(directories["whole"])
    assert not (directories["killed"] / "scan").exists()


def wait_for_parts(folder: Path, number: int) -> set[str]:
    """Until there are at least that many part files."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = {part.name for part in folder.glob("*.json") if not part.name.startswith(".")}
        if len(parts) >= number:
            return parts
        time.sleep(0.002)
    raise AssertionError(f"no {number} part files within a minute")
