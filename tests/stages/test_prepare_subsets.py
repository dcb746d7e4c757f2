"""Prepare on parts of ImageNet and on one's own images: a split alone, any classes, damaged images, no validation."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.data import DataConfig
from pipeline.config.schema import Config
from pipeline.data.encoded import read_image
from pipeline.data.findings import read_findings
from pipeline.data.source import place_name
from pipeline.data.verification import check_images
from pipeline.ground.errors import UserError
from tests.images import write_image_folders
from tests.processes import fork_context
from tests.recipes import small_recipe
from tests.stages.preparing import SPLITS, Prepared, run_prepare, training_batches, with_data

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def one_fork_server() -> None:
    """The scan's workers come from the server that the tests share, whichever of them starts it."""
    fork_context()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_folders(tmp_path / "images", num_classes=4, train_per_class=5, val_per_class=3)


def prepare_val(run: Path, root: Path, **data: Any) -> Prepared:
    (val,) = run_prepare(run, small_recipe(root, data={"dataset": "folder", **data}), ("val",)).values()
    return val


def test_eight_images_of_two_classes_are_enough_for_an_evaluation(tmp_path: Path, images: Path) -> None:
    chosen = [*sorted(images.rglob("class_00/*.jpg"))[:4], *sorted(images.rglob("class_03/*.jpg"))[:4]]
    for number, path in enumerate(chosen):
        folder = tmp_path / "few" / "val" / {"class_00": "n02102040", "class_03": "n01440764"}[path.parent.name]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{number}.jpg")
    val = prepare_val(tmp_path / "run", tmp_path / "few")
    assert [one.folder for one in val.index.classes] == ["n01440764", "n02102040"]
    assert val.index.labels.tolist() == [0] * 4 + [1] * 4
    assert val.notes[0] == f"val: 8 images, class folders in {tmp_path}/few/val"


def test_one_class_folder_and_a_root_of_classes_are_enough(tmp_path: Path, images: Path) -> None:
    root = tmp_path / "one"
    shutil.copytree(images / "val" / "class_02", root / "n01440764")
    val = prepare_val(tmp_path / "run", root, val=".")
    assert [one.folder for one in val.index.classes] == ["n01440764"]
    assert len(val.index) == 3


def test_class_folders_without_images_do_not_stop_an_evaluation_but_a_training(tmp_path: Path, images: Path) -> None:
    (images / "val" / "class_99").mkdir()
    val = prepare_val(tmp_path / "run", images)
    assert [one.folder for one in val.index.classes][-1] == "class_99"
    (images / "train" / "class_99").mkdir()
    with pytest.raises(UserError, match=r"data\.train: classes without images in .*/train: class_99"):
        run_prepare(tmp_path / "both", small_recipe(images))


def test_folders_that_are_numbers_are_in_the_order_of_the_numbers(tmp_path: Path, images: Path) -> None:
    """As ImageNet-V2's are: as text they sort 0, 1, 10, 2."""
    for number in (0, 1, 2, 10):
        shutil.copytree(images / "val" / "class_00", tmp_path / "v2" / "val" / str(number))
    val = prepare_val(tmp_path / "run", tmp_path / "v2")
    assert [one.folder for one in val.index.classes] == ["0", "1", "2", "10"]
    assert val.index.names[-1] == "10/2.jpg"
    assert val.index.labels.tolist()[-1] == 3


def test_a_part_of_imagenet_under_its_name_is_told_the_way(tmp_path: Path, images: Path) -> None:
    config = with_data(small_recipe(images), dataset="imagenet")
    with pytest.raises(
        UserError, match=r"a part of ImageNet, to train on or to evaluate after training: data\.dataset=folder, with"
    ):
        run_prepare(tmp_path / "run", config, ("train",))
    with pytest.raises(
        UserError, match=r"a part of ImageNet, to train on or to evaluate after training: data\.dataset=folder, with"
    ):
        run_prepare(tmp_path / "both", config, ("train", "val"))


def test_a_part_of_imagenet_s_validation_images_alone_is_taken_as_it_is(tmp_path: Path, images: Path) -> None:
    config = with_data(small_recipe(images), dataset="imagenet")
    (val,) = run_prepare(tmp_path / "run", config, ("val",)).values()
    assert val.index.dataset == "folder"
    assert "val: 12 images of 4 classes, not all of ILSVRC 2012's: taken as they are" in val.notes[1]


def test_what_is_no_image_is_passed_over_and_listed(tmp_path: Path, images: Path) -> None:
    folder = images / "val" / "class_01"
    strays = ["notes.txt", "checksums.md5", "0.jpg.md5", "README", "empty", "labels.csv"]
    for name in strays:
        (folder / name).write_bytes(b"" if name == "empty" else b"some text")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "0.jpg").write_bytes(b"thumb")
    (images / "val" / "@eaDir").mkdir()
    (images / "val" / "val.md5").touch()
    (folder / "photo").write_bytes((folder / "0.jpg").read_bytes())
    val = prepare_val(tmp_path / "run", images)
    assert len(val.index) == 13
    assert "class_01/photo" in list(val.index.names)
    ignored = {found.path for found in read_findings(val.directory) if found.finding == "ignored"}
    assert ignored == {f"class_01/{name}" for name in [*strays, "@eaDir"]} | {"@eaDir", "val.md5"}
    assert val.notes[1].startswith("9 passed over that are no images, val/@eaDir the first (listed in ")


def test_names_that_are_not_utf8_are_refused_by_prepare(tmp_path: Path, images: Path) -> None:
    (images / "val" / "class_01" / "0.jpg").rename(images / "val" / "class_01" / "caf\udce9.jpg")
    with pytest.raises(UserError, match=r"names that are not UTF-8 in .*/val; rename them: 'class_01/caf\\udce9\.jpg'"):
        prepare_val(tmp_path / "run", images)
    (images / "val" / "class_01" / "caf\udce9.jpg").rename(images / "val" / "class_01" / "0.jpg")
    shutil.rmtree(images / "val")
    (images / "train" / "class_01").rename(images / "train" / "caf\udce9")
    with pytest.raises(UserError, match="names that are not UTF-8"):
        run_prepare(tmp_path / "held_out", held_out(images))


def damage(images: Path) -> list[str]:
    bad = ["train/class_01/3.jpg", "train/class_02/0.jpg"]
    for name in bad:
        content = (images / name).read_bytes()
        (images / name).write_bytes(content[: len(content) // 2])
    return bad


def test_unusable_images_are_skipped_and_listed_if_the_recipe_says_so(tmp_path: Path, images: Path) -> None:
    bad = damage(images)
    with pytest.raises(UserError, match=r"2 images cannot be used(.|\n)*data\.unusable=skip"):
        run_prepare(tmp_path / "run", small_recipe(images))
    config = small_recipe(images, data={"dataset": "folder", "unusable": "skip"})
    train = run_prepare(tmp_path / "run", config)["train"]
    assert len(train.index) == 18
    listed = [found for found in read_findings(train.directory) if found.severity == "warning"]
    assert sorted(found.name for found in listed) == bad
    assert any(text.startswith("2 images left out, which cannot be used (listed in ") for text in train.warnings)
    excluded = small_recipe(images, data={"dataset": "folder", "exclude": bad})
    without = run_prepare(tmp_path / "without", excluded)["train"]
    assert without.index.digest == train.index.digest
    assert read_image(train.index, 8) == read_image(without.index, 8)


def test_a_class_of_unusable_images_is_an_error(tmp_path: Path, images: Path) -> None:
    for path in (images / "train" / "class_03").iterdir():
        path.write_bytes(b"x")
    config = small_recipe(images, data={"dataset": "folder", "unusable": "skip"})
    with pytest.raises(UserError, match=r"data\.unusable: skip leaves no image in class_03 of train"):
        run_prepare(tmp_path / "run", config)


def held_out(root: Path, fraction: float = 0.25, **data: Any) -> Config:
    return small_recipe(root, data={"dataset": "folder", "val_fraction": fraction, **data})


@pytest.mark.parametrize("is_below_root", [True, False])
def test_without_validation_images_a_share_of_each_class_is_held_out(
    tmp_path: Path, images: Path, is_below_root: bool
) -> None:
    shutil.rmtree(images / "val")
    place = images / "train"
    if is_below_root:  # no folder for splits at all
        place = (images / "train").rename(tmp_path / "own")
    config = held_out(place if is_below_root else images, 0.4)
    made = run_prepare(tmp_path / "run", config)
    assert {split: len(made[split].index) for split in SPLITS} == {"train": 12, "val": 8}
    assert made["val"].index.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    names = [name for split in SPLITS for name in made[split].index.names]
    assert sorted(names) == sorted(f"class_{label:02d}/{number}.jpg" for label in range(4) for number in range(5))
    for split in SPLITS:
        assert made[split].notes == [
            f"{split}: {len(made[split].index)} images, class folders in {place}; 40 % of each class are held out for "
            "validation (data.val_fraction, data.split_seed=0)"
        ]
        assert place_name(made[split].index) == f"class folders in {place}"
        check_images(made[split].index, False, lambda text: None)
    again = run_prepare(tmp_path / "again", config, ("val",))["val"]
    assert again.index.digest == made["val"].index.digest
    other = run_prepare(tmp_path / "other", with_data(config, split_seed=1))
    assert other["val"].index.digest != made["val"].index.digest
    assert training_batches(made["train"].index, config)


def test_held_out_images_are_the_same_from_tar_files(tmp_path: Path, images: Path) -> None:
    shutil.rmtree(images / "val")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "train.tar", "w") as tar:
        tar.add(images / "train", ".")
    plain = run_prepare(tmp_path / "plain", held_out(images))
    config = held_out(tmp_path / "tars", train="train.tar")
    made = run_prepare(tmp_path / "run", config)
    for split in SPLITS:
        assert made[split].index.digest == plain[split].index.digest
        (made[split].directory / "places-tar.npy").unlink()
        assert read_image(made[split].index, 3) == read_image(plain[split].index, 3)
    batches = training_batches(made["train"].index, config)
    assert all(map(torch.equal, batches, training_batches(plain["train"].index, config)))


def test_validation_images_that_are_there_are_used(tmp_path: Path, images: Path) -> None:
    made = run_prepare(tmp_path / "run", held_out(images))
    plain = run_prepare(tmp_path / "plain", small_recipe(images))
    for split in SPLITS:
        assert made[split].index.digest == plain[split].index.digest
    does_nothing = "there are validation images, so data.val_fraction does nothing"
    assert [note.endswith(does_nothing) for note in (made["train"].notes[0], made["val"].notes[0])] == [False, True]


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path, images: Path) -> None:
    shutil.rmtree(images / "val")
    for path in sorted((images / "train" / "class_02").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match=r"data\.val_fraction: classes in .* with fewer than two images .*: class_02"):
        run_prepare(tmp_path / "run", held_out(images))


def test_without_validation_images_the_remedy_is_named(tmp_path: Path, images: Path) -> None:
    shutil.rmtree(images / "val")
    with pytest.raises(UserError, match=r"data\.val: must be a folder(.|\n)*data\.val_fraction=0\.1 holds out a tenth"):
        run_prepare(tmp_path / "run", small_recipe(images))


@pytest.mark.parametrize("dataset", ["imagenet", "digits"])
def test_images_with_a_split_of_their_own_are_not_split(dataset: str) -> None:
    with pytest.raises(ValueError, match=f"val_fraction: dataset '{dataset}' has validation images of its own"):
        root = None if dataset == "digits" else "x"
        DataConfig.model_validate({"dataset": dataset, "root": root, "val_fraction": 0.1})
