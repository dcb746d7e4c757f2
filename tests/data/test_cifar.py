"""CIFAR as people have it: every form gives the same pixels and labels, or says why not; nothing in it is run."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.data import DataConfig
from pipeline.data.cifar import Labels, Pixels, read_cifar
from pipeline.data.cifar_versions import CIFAR, describe_checksum
from pipeline.data.recognition import check_places, place_of
from pipeline.ground.errors import UserError
from tests.data.cifar_archives import (
    binary_files,
    cifar_images,
    python2_pickle,
    python_files,
    shrink,
    write_archive,
    write_folder,
    write_parquet,
)

DATASETS = ("cifar10", "cifar100")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def read(root: Path, dataset: Any, split: str) -> tuple[Pixels, Labels]:
    place = place_of(DataConfig(dataset=dataset, root=str(root)), split)
    return read_cifar(place.path, dataset, split, place.files)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("form", ["binary", "python", "binary_folder", "python_folder", "in_the_folder", "parquet"])
def test_every_form_has_the_same_pixels_and_labels_in_the_same_order(tmp_path: Path, dataset: str, form: str) -> None:
    images = cifar_images(dataset)
    version = CIFAR[dataset].python if form.startswith("python") else CIFAR[dataset].binary
    files = (python_files if form.startswith("python") else binary_files)(dataset, images)
    if form == "parquet":
        write_parquet(tmp_path / CIFAR[dataset].hub_folder, dataset, images)
    elif "folder" in form:
        write_folder(tmp_path, version.folder, files)
    else:
        write_archive(tmp_path, version.archive, version.folder, files)
    root = tmp_path / version.folder if form == "in_the_folder" else tmp_path
    for split, (pixels, labels) in images.items():
        found, found_labels = read(root, dataset, split)
        assert np.array_equal(found, pixels)
        assert found_labels.tolist() == labels


def test_the_whole_data_sets_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, CIFAR["cifar10"].binary.folder, binary_files("cifar10", cifar_images("cifar10")))
    monkeypatch.undo()
    for name, classes, train, val in (("cifar10", 10, 5000, 1000), ("cifar100", 100, 500, 100)):
        assert len(CIFAR[name].classes) == classes
        assert list(CIFAR[name].classes) == sorted(set(CIFAR[name].classes))
        assert CIFAR[name].per_class == {"train": train, "val": val}
    with pytest.raises(UserError, match=r"must have 5,000 train images of each of the 10 classes .*it has 50 images"):
        read(tmp_path, "cifar10", "train")


def test_the_published_archive_is_known_by_its_md5_and_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set = CIFAR["cifar10"]
    path = write_archive(tmp_path, data_set.binary.archive, "cifar-10-batches-bin", {})
    found = hashlib.md5(path.read_bytes()).hexdigest()
    assert describe_checksum(path, "cifar10") == f"another archive than the published one (MD5 {found})"
    published = dataclasses.replace(data_set, binary=dataclasses.replace(data_set.binary, md5=found))
    monkeypatch.setitem(CIFAR, "cifar10", published)
    assert describe_checksum(path, "cifar10") == "the published archive (MD5)"
    assert describe_checksum(tmp_path, "cifar10") == "no archive, so not compared with the published MD5"


class Command:
    """Runs a program when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", str(self.file)],)


def test_a_pickle_with_code_is_refused_and_nothing_of_it_is_run(tmp_path: Path) -> None:
    files = python_files("cifar10", cifar_images("cifar10"))
    files["data_batch_3"] = pickle.dumps({"data": Command(tmp_path / "run"), "labels": []})
    write_archive(tmp_path, CIFAR["cifar10"].python.archive, "cifar-10-batches-py", files)
    with pytest.raises(UserError, match=r"data_batch_3 is not .*names subprocess\.check_call, .*nothing of it was run"):
        read(tmp_path, "cifar10", "train")
    assert not (tmp_path / "run").exists()


def pickled(key: str, value: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["train"] = pickle.dumps({**pickle.loads(files["train"], encoding="latin1"), key: value}, protocol=2)

    return change


def coarse(files: dict[str, bytes]) -> None:
    content = pickle.loads(files["train"], encoding="latin1")
    content["coarse_labels"] = [label % 20 for label in content.pop("fine_labels")]
    files["train"] = python2_pickle(content)


def cut(files: dict[str, bytes]) -> None:
    files["train"] = files["train"][:-1000]


def missing(files: dict[str, bytes]) -> None:
    del files["train"]


def other_order(files: dict[str, bytes]) -> None:
    names = list(CIFAR["cifar100"].classes)
    files["meta"] = pickle.dumps({"fine_label_names": [names[1], names[0], *names[2:]]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (coarse, "train has CIFAR-100's 20 coarse labels alone; the classes are its fine_labels"),
        (
            pickled("fine_labels", [label % 20 for label in range(100)]),
            "0 to 5 a class; these are the 20 coarse labels",
        ),
        (pickled("fine_labels", list(range(99))), "must have data, a row of 3,072 bytes for each image, and fine_lab"),
        (pickled("fine_labels", ["a"] * 100), "has labels that are no numbers"),
        (pickled("data", np.zeros((100, 3072))), "train is not .*: an array in it is of 'f8', not uint8"),
        (pickled("data", np.zeros((100, 7), np.uint8)), "must have data, a row of 3,072 bytes for each image"),
        (pickled("data", b"abc"), "must have data, a row of 3,072 bytes for each image"),
        (cut, "train is not as CIFAR's authors wrote it"),
        (missing, "has no cifar-100-python/train; download it again"),
        (other_order, r"the classes in another order \(aquarium_fish in the place of apple\)"),
    ],
)
def test_a_wrong_python_version_is_one_clear_error(tmp_path: Path, damage: Any, message: str) -> None:
    files = python_files("cifar100", cifar_images("cifar100"))
    damage(files)
    write_archive(tmp_path, CIFAR["cifar100"].python.archive, "cifar-100-python", files)
    with pytest.raises(UserError, match=f"^data.root: .*{message}"):
        read(tmp_path, "cifar100", "train")


@pytest.mark.parametrize("num_bytes", [0, 5, 500, 20_000])
def test_a_cut_archive_is_one_clear_error(tmp_path: Path, num_bytes: int) -> None:
    files = binary_files("cifar10", cifar_images("cifar10"))
    path = write_archive(tmp_path, CIFAR["cifar10"].binary.archive, "cifar-10-batches-bin", files)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(UserError, match=r"^data.root: .*binary.tar.gz .*; download it again$"):
        read(tmp_path, "cifar10", "val")


@pytest.mark.parametrize("name", ["batches.meta.txt", "test_batch.bin"])
def test_a_folder_without_one_of_its_files_says_which(tmp_path: Path, name: str) -> None:
    files = binary_files("cifar10", cifar_images("cifar10"))
    del files[name]
    write_folder(tmp_path, CIFAR["cifar10"].binary.folder, files)
    with pytest.raises(UserError, match=rf"^data.root: \S+/cifar-10-batches-bin has no {name}; download it again$"):
        read(tmp_path, "cifar10", "val")


def test_the_archive_in_the_place_of_its_folder_is_told_the_folder(tmp_path: Path) -> None:
    path = write_archive(tmp_path, CIFAR["cifar10"].binary.archive, "cifar-10-batches-bin", {})
    with pytest.raises(UserError, match=rf"must be the folder of the images or archives: {tmp_path} \(given {path}, a"):
        read(path, "cifar10", "val")


def test_class_names_that_python_3_has_written_again_are_read(tmp_path: Path) -> None:
    images = cifar_images("cifar10")
    files = python_files("cifar10", images)
    names = [name.encode() for name in CIFAR["cifar10"].classes]
    files["batches.meta"] = pickle.dumps({"label_names": names}, protocol=2)
    write_archive(tmp_path, CIFAR["cifar10"].python.archive, "cifar-10-batches-py", files)
    assert np.array_equal(read(tmp_path, "cifar10", "val")[0], images["val"][0])


def test_a_cut_file_of_the_binary_version_is_one_clear_error(tmp_path: Path) -> None:
    files = binary_files("cifar10", cifar_images("cifar10"))
    files["test_batch.bin"] = files["test_batch.bin"][:-5]
    write_folder(tmp_path, CIFAR["cifar10"].binary.folder, files)
    with pytest.raises(UserError, match=r"test_batch.bin must be records of 3,073 bytes \(it has 61,455\)"):
        read(tmp_path, "cifar10", "val")


def test_where_there_are_no_images_the_message_says_what_would_be_recognised(tmp_path: Path) -> None:
    write_archive(tmp_path, CIFAR["cifar100"].binary.archive, "cifar-100-binary", {})
    with pytest.raises(
        UserError, match=r"(?s)no images of cifar10 in .* \(it holds cifar-100-binary.tar.gz\)"
    ) as raised:
        check_places(DataConfig(dataset="cifar10", root=str(tmp_path)), ("train", "val"))
    assert "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, cifar-10-batches-bin/" in str(raised.value)
    assert str(raised.value).endswith("write data.dataset=cifar100")
