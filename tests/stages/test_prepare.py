"""Prepare as a person meets it: what stops it, what it says, and what it leaves."""

from __future__ import annotations

import dataclasses
import io
import shlex
import shutil
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.reader import load_config, write_run_config
from pipeline.config.schema import Config
from pipeline.data import layout
from pipeline.data.encoded import read_image
from pipeline.data.findings import read_findings
from pipeline.data.ilsvrc import Ilsvrc, Synset, digest_ids
from pipeline.data.index import FLAGS, UNLABELLED
from pipeline.ground.errors import UserError
from pipeline.running.attempts import known_places
from tests.data import odd_images
from tests.images import write_image_folders
from tests.processes import fork_context
from tests.recipes import small_recipe
from tests.stages.preparing import OUTPUTS, SPLITS, Prepared, outputs_of, run_prepare, training_batches, with_data

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def one_fork_server() -> None:
    """The scan's workers come from the server that the tests share, whichever of them starts it."""
    fork_context()


def digits_recipe() -> Config:
    fields = small_recipe(Path("unused")).model_dump()
    fields["data"].update(dataset="digits", root=None)
    fields["model"]["num_classes"] = 10
    return Config.model_validate(fields)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_folders(tmp_path / "images", num_classes=4, train_per_class=5, val_per_class=3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    return run_prepare(tmp_path_factory.mktemp("digits"), digits_recipe())


def test_digits_become_an_index_a_split(digits: dict[str, Prepared]) -> None:
    for split, count in (("train", 1438), ("val", 359)):
        prepared = digits[split]
        index = prepared.index
        assert set(prepared.result.outputs) == OUTPUTS
        assert prepared.result.metrics == {f"{split}_images": count, "classes": 10, "findings": {}, "flags": {}}
        assert prepared.result.images == {split: index.digest}
        assert (len(index), index.split, index.dataset) == (count, split, "digits")
        assert [one.words for one in index.classes][:3] == ["zero", "one", "two"]
        assert set(index.widths) == set(index.heights) == {32}
        with Image.open(io.BytesIO(read_image(index, count - 1))) as image:
            assert image.size == (32, 32)
        progress = [event for event in prepared.told if event["kind"] == "progress"]
        assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["unit"]) == (count, count, "images")
        left = {path.name for path in prepared.directory.iterdir()}
        assert left == {*OUTPUTS, "images", "events.jsonl", "attempts.jsonl", "seal.json"}


def test_same_data_give_the_same_bytes_and_can_be_moved(digits: dict[str, Prepared], tmp_path: Path) -> None:
    (again,) = run_prepare(tmp_path, digits_recipe(), ("val",)).values()
    assert outputs_of(again) == outputs_of(digits["val"])
    moved = dataclasses.replace(again, directory=again.directory.rename(tmp_path / "moved"))
    assert Path(moved.index.file(0)).is_file()


def test_a_split_alone_needs_nothing_of_the_others(images: Path, tmp_path: Path) -> None:
    shutil.rmtree(images / "train")
    (val,) = run_prepare(tmp_path / "run", small_recipe(images), ("val",)).values()
    assert (len(val.index), val.result.metrics["classes"]) == (12, 4)
    with pytest.raises(UserError, match=rf"data\.train: must be a folder \(given {images}/train\)"):
        run_prepare(tmp_path / "both", small_recipe(images))


def test_the_place_of_the_images_needs_no_second_look(images: Path, tmp_path: Path) -> None:
    run_prepare(tmp_path / "run", small_recipe(images))
    assert known_places(tmp_path / "run") == {(split, f"class folders in {images}/{split}") for split in SPLITS}


def test_shards_are_written_once_for_all_runs_and_the_index_reads_from_them(tmp_path: Path, images: Path) -> None:
    config = small_recipe(images, data={"dataset": "folder", "shards": str(tmp_path / "shards")})
    made = run_prepare(tmp_path / "run", config)
    tars = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")}
    assert {path.name for path in tars} == {"train-00000.tar", "val-00000.tar"}
    texts = [event["text"] for event in made["val"].told if event["kind"] == "progress"]
    assert list(dict.fromkeys(texts)) == ["checking every val image", "writing shards of the val images"]
    again, plain = run_prepare(tmp_path / "again", config), run_prepare(tmp_path / "plain", small_recipe(images))
    assert {path: path.stat().st_mtime_ns for path in tars} == tars
    for split in SPLITS:
        assert outputs_of(again[split]) == outputs_of(made[split]) == outputs_of(plain[split])
        index, loose = again[split].index, plain[split].index
        assert index.source is not None
        assert index.source.layout == "shards"
        for position in range(len(index)):
            assert read_image(index, position) == read_image(loose, position)


def test_only_training_images_are_ever_resized(tmp_path: Path, images: Path) -> None:
    data = {"dataset": "folder", "shards": str(tmp_path / "shards"), "resize_train_px": 33}
    plain = run_prepare(tmp_path / "plain", small_recipe(images))
    resized = run_prepare(tmp_path / "resized", small_recipe(images, data=data))
    assert resized["val"].index.digest == plain["val"].index.digest
    train = resized["train"].index
    assert train.digest != plain["train"].index.digest
    assert max(np.minimum(train.widths, train.heights)) == 33


def test_bad_images_stop_the_stage_with_the_list_and_the_way_out(tmp_path: Path, images: Path) -> None:
    (images / "train" / "class_01" / "3.jpg").write_bytes(b"<html>")
    (images / "train" / "class_02" / "it's here.jpg").write_bytes(b"")
    (images / "train" / "class_02" / "folder.jpg").mkdir()
    directory = tmp_path / "run" / "prepare-train"
    with pytest.raises(UserError) as caught:
        run_prepare(tmp_path / "run", small_recipe(images))
    *listed, way_out = str(caught.value).splitlines()
    assert listed == [
        f"data: 3 images cannot be used (listed in {directory}/findings.tsv):",
        "  train/class_01/3.jpg: not_an_image (begins with b'<html>')",
        "  train/class_02/folder.jpg: not_a_file (a folder)",
        "  train/class_02/it's here.jpg: empty (0 bytes)",
    ]
    assert [found.severity for found in read_findings(directory)] == ["error"] * 3
    assert not (directory / "index.json").exists()

    write_run_config(tmp_path, small_recipe(images))
    (override,) = shlex.split(way_out.split("leave them out: ")[1])
    made = run_prepare(tmp_path / "run", load_config(tmp_path / "config.yaml", [override]))
    assert made["train"].result.metrics["findings"] == {"excluded": 3}
    assert (len(made["train"].index), len(made["val"].index)) == (19, 12)


def test_repaired_image_is_taken_by_the_same_command(tmp_path: Path, images: Path) -> None:
    image = images / "train" / "class_01" / "3.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-300])
    with pytest.raises(UserError, match=r"train/class_01/3\.jpg: truncated"):
        run_prepare(tmp_path / "run", small_recipe(images))
    image.write_bytes(content)
    assert len(run_prepare(tmp_path / "run", small_recipe(images))["train"].index) == 20


def test_long_list_of_bad_images_is_cut_on_the_screen_and_whole_in_the_file(tmp_path: Path, images: Path) -> None:
    for number in range(25):
        (images / "train" / "class_00" / f"bad_{number:02d}.jpg").touch()
    with pytest.raises(
        UserError, match=r"25 images cannot be used(.|\n)* and 5 more\n.*name them all in data\.exclude"
    ):
        run_prepare(tmp_path / "run", small_recipe(images))
    assert len(read_findings(tmp_path / "run" / "prepare-train")) == 25


def test_odd_but_good_images_are_taken_and_listed(tmp_path: Path, images: Path) -> None:
    for name, (content, _) in odd_images.accepted().items():
        (images / "train" / "class_00" / name).write_bytes(content)
    train = run_prepare(tmp_path / "run", small_recipe(images))["train"]
    flags_of = dict(zip(train.index.names, train.index.flags.tolist(), strict=True))
    for name, (_, flags) in odd_images.accepted().items():
        assert {flag for bit, flag in enumerate(FLAGS) if flags_of[f"class_00/{name}"] & (1 << bit)} == set(flags)
    listed = {(found.path, found.finding, found.severity) for found in read_findings(train.directory)}
    assert ("class_00/cmyk.jpg", "cmyk", "notice") in listed
    assert ("class_00/png_inside.JPEG", "not_jpeg_inside", "notice") in listed
    assert ("class_00/png_inside.JPEG", "duplicate", "warning") in listed
    assert train.result.metrics["flags"]["exif_rotated"] == 3


def test_an_image_of_two_splits_is_a_warning_as_soon_as_both_are_known(tmp_path: Path, images: Path) -> None:
    shutil.copy(images / "train" / "class_00" / "0.jpg", images / "val" / "class_01" / "leak.jpg")
    made = run_prepare(tmp_path / "run", small_recipe(images))
    assert made["train"].result.metrics["findings"] == {}
    assert made["val"].result.metrics["findings"] == {"duplicate_across_splits": 1}
    (warning,) = made["val"].warnings
    assert warning.startswith("findings of kind duplicate_across_splits: 1 (listed in ")
    (later,) = run_prepare(tmp_path / "later", small_recipe(images), ("val",)).values()
    assert later.result.metrics["findings"] == {}
    train = run_prepare(tmp_path / "later", small_recipe(images), ("val", "train"))["train"]
    (found,) = read_findings(train.directory)
    assert (found.name, found.detail) == ("train/class_00/0.jpg", "the same bytes as val/class_01/leak.jpg")


@pytest.fixture
def imagenet(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four classes that pass for ImageNet's, five flat validation images and the devkit's labels."""
    ids, truth = (2, 4, 1, 3), (1, 1, 3, 2, 4)
    synsets = tuple(Synset(f"class_{label:02d}", ids[label], 5, f"word {label}") for label in range(4))
    monkeypatch.setattr(layout, "read_ilsvrc2012", lambda: Ilsvrc(synsets, len(truth), 2, digest_ids(truth)))
    (tmp_path / "truth.txt").write_text("\n".join(map(str, truth)) + "\n")
    shutil.rmtree(images / "val")
    (images / "val").mkdir()
    for number in range(1, 6):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        shutil.copy(images / "train" / "class_00" / f"{number - 1}.jpg", images / "val" / name)
    return with_data(small_recipe(images), dataset="imagenet", val_ground_truth=str(tmp_path / "truth.txt"))


def into_class_folders(val: Path) -> None:
    """As everybody's shell script does it; the labels are those of the fixture above."""
    for number, label in enumerate((2, 2, 3, 0, 1), start=1):
        (val / f"class_{label:02d}").mkdir(exist_ok=True)
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (val / name).rename(val / f"class_{label:02d}" / name)


def test_flat_imagenet_is_labelled_by_the_devkits_file(tmp_path: Path, images: Path, imagenet: Config) -> None:
    excluded = "val/class_02/ILSVRC2012_val_00000002.JPEG"
    val = run_prepare(tmp_path / "run", with_data(imagenet, exclude=(excluded,)))["val"]
    assert val.index.labels.tolist() == [2, 3, 0, 1]
    assert [one.ilsvrc2012_id for one in val.index.classes] == [2, 4, 1, 3]
    assert val.index.names[2] == "class_00/ILSVRC2012_val_00000004.JPEG"
    assert val.index.file(2) == f"{images}/val/ILSVRC2012_val_00000004.JPEG"
    assert val.result.metrics["findings"] == {"duplicate_across_splits": 4, "excluded": 1}
    with pytest.raises(UserError, match=rf"there is no val/ILSVRC2012_val_00000002\.JPEG; did you mean {excluded}\?"):
        run_prepare(tmp_path / "other", with_data(imagenet, exclude=("val/ILSVRC2012_val_00000002.JPEG",)))


def test_test_images_have_no_labels(tmp_path: Path, images: Path, imagenet: Config) -> None:
    (images / "test").mkdir()
    for number, of_class in ((1, 1), (2, 3)):
        name = f"ILSVRC2012_test_{number:08d}.JPEG"
        shutil.copy(images / "train" / f"class_{of_class:02d}" / "0.jpg", images / "test" / name)
    test = run_prepare(tmp_path / "run", with_data(imagenet, test="test"), ("train", "val", "test"))["test"]
    assert list(test.index.names) == ["ILSVRC2012_test_00000001.JPEG", "ILSVRC2012_test_00000002.JPEG"]
    assert test.index.labels.tolist() == [UNLABELLED, UNLABELLED]
    assert test.result.metrics["test_images"] == 2
    assert test.result.metrics["findings"] == {"duplicate_across_splits": 2}

    (images / "test" / "n01440764").mkdir()
    with pytest.raises(UserError, match=r"data\.test: .* must hold the images themselves \(it holds folders: n0144"):
        run_prepare(tmp_path / "other", with_data(imagenet, test="test"), ("train", "val", "test"))


def test_imagenets_validation_images_are_in_the_order_of_their_numbers_in_class_folders_too(
    tmp_path: Path, images: Path, imagenet: Config
) -> None:
    into_class_folders(images / "val")
    index = run_prepare(tmp_path / "run", with_data(imagenet, val_ground_truth=None))["val"].index
    assert [name.rpartition("/")[2] for name in index.names] == [
        f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)
    ]
    assert index.labels.tolist() == [2, 2, 3, 0, 1]


def test_the_same_images_are_the_same_however_they_are_stored(
    tmp_path: Path, images: Path, imagenet: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made anew each time, and located anew from the first index: one digest, and batches equal bit for bit."""
    first = run_prepare(tmp_path / "flat", imagenet)
    (tmp_path / "link").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    ways: dict[str, dict[str, Any]] = {
        "slash": {"root": f"{images}/"},
        "relative": {"root": "images"},
        "link": {"root": str(tmp_path / "link")},
        "shards": {"shards": str(tmp_path / "shards")},
        "class_folders": {"root": str(tmp_path / "copy"), "val_ground_truth": None},
        "moved": {"root": str(tmp_path / "moved")},
    }
    shutil.copytree(images, tmp_path / "copy")
    into_class_folders(tmp_path / "copy" / "val")
    expected = {split: training_batches(first[split].index, imagenet) for split in SPLITS}
    for name, data in ways.items():
        if name == "moved":
            shutil.move(images, tmp_path / "moved")
        made = run_prepare(tmp_path / name, with_data(imagenet, **data))
        for split in SPLITS:
            assert made[split].result.images == first[split].result.images, name
            again = dataclasses.replace(first[split], config=made[split].config).index
            for index in (made[split].index, again):
                found = training_batches(index, imagenet)
                assert all(map(torch.equal, found, expected[split])), name


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
    made = run_prepare(tmp_path / "run", config)
    train = made["train"].index
    assert (len(train), len(train.classes)) == (500, 500)
    assert made["val"].result.metrics["findings"] == {"duplicate_across_splits": 500}
    assert train.heights.min() > 50
    with Image.open(train.file(77)) as image:
        assert image.size == (train.widths[77], train.heights[77])

    as_imagenet = small_recipe(root, data={"dataset": "imagenet"}, model={"num_classes": 1000})
    with pytest.raises(UserError) as caught:
        run_prepare(tmp_path / "imagenet", as_imagenet)
    message = str(caught.value)
    assert f"{root}/train holds 500 of the 1,000 classes of ILSVRC 2012; missing: n01443537, n01491361" in message
    assert "and 490 more" in message
    assert "holds 500 images, ILSVRC 2012 has 1,281,167" in message
    assert "data.val: " in message


def prepare_alone(run: Path, config: Config) -> None:
    run_prepare(run, config, ("train",))


@pytest.mark.faults
def test_killed_scan_goes_on_and_ends_as_if_never_killed(tmp_path: Path) -> None:
    images = write_image_folders(tmp_path / "images", num_classes=40, train_per_class=3, val_per_class=2)
    config = small_recipe(images, model={"num_classes": 40})
    (whole,) = run_prepare(tmp_path / "whole", config, ("train",)).values()
    scan = tmp_path / "killed" / "prepare-train" / "scan"
    kept: set[str] = set()
    for count in (1, 30):
        process = fork_context().Process(target=prepare_alone, args=(tmp_path / "killed", config))
        process.start()
        seals = wait_for_seals(scan, count)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert kept <= seals
        kept = seals
    moved = images.rename(tmp_path / "moved")
    config = with_data(config, root=str(moved))
    (killed,) = run_prepare(tmp_path / "killed", config, ("train",)).values()
    assert outputs_of(killed) == outputs_of(whole)
    assert not scan.exists()


def wait_for_seals(folder: Path, number: int) -> set[str]:
    """Until there are at least that many sealed results."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seals = {path.name for path in folder.glob("*.seal.json") if not path.name.startswith(".")}
        if len(seals) >= number:
            return seals
        time.sleep(0.002)
    raise AssertionError(f"no {number} sealed results within a minute")
