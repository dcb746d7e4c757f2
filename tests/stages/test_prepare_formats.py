"""ImageNet as people have it: each format gives the index and the batches of class folders, or says why not."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.data import layout
from pipeline.data.encoded import read_image
from pipeline.data.findings import read_findings
from pipeline.data.index import ImageIndex
from pipeline.data.verification import check_images
from pipeline.ground.errors import UserError
from tests.data import formats
from tests.processes import fork_context
from tests.recipes import small_recipe
from tests.stages.preparing import SPLITS, Prepared, run_prepare, training_batches, with_data

pytestmark = pytest.mark.slow

ALL = ("train", "val", "test")


@pytest.fixture(autouse=True, scope="module")
def one_fork_server() -> None:
    """The scan's workers come from the server that the tests share, whichever of them starts it."""
    fork_context()


@pytest.fixture(autouse=True)
def contest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "read_ilsvrc2012", lambda: formats.TABLE)


@pytest.fixture(scope="module")
def images() -> dict[str, formats.Files]:
    return formats.contest_images()


def recipe(root: Path, **data: Any) -> Config:
    return with_data(small_recipe(root), dataset="imagenet", **data)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, images: dict[str, formats.Files]) -> dict[str, Prepared]:
    root = tmp_path_factory.mktemp("folders")
    formats.class_folders(root / "data", images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "read_ilsvrc2012", lambda: formats.TABLE)
        return run_prepare(root / "run", recipe(root / "data", test="test"), ALL)


def content(index: ImageIndex) -> list[bytes]:
    return [read_image(index, position) for position in range(len(index))]


@pytest.mark.parametrize("name", formats.NAMED)
def test_formats_that_keep_names_give_the_index_and_the_batches_of_class_folders(
    name: str, tmp_path: Path, images: dict[str, formats.Files], folders: dict[str, Prepared]
) -> None:
    root = tmp_path / "data"
    splits, data = SPLITS if name.startswith("webdataset") else ALL, dict[str, Any]()
    if name == "parquet":
        pytest.importorskip("pyarrow")
        data["shards"] = str(tmp_path / "shards")
    formats.NAMED[name](root, images)
    there = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    config = recipe(root, test="test" if "test" in splits else None, **data)
    made = run_prepare(tmp_path / "run", config, splits)
    for split in splits:
        assert made[split].index.digest == folders[split].index.digest, split
        assert made[split].index.classes == folders[split].index.classes
        assert not any("dropped the images' names" in note for note in made[split].notes)
        # Also from the index that was made of class folders, at this root.
        elsewhere = dataclasses.replace(folders[split], config=config, directory=tmp_path / f"elsewhere-{split}")
        shutil.copytree(folders[split].directory, elsewhere.directory)
        check_images(elsewhere.index, False, lambda text: None)
        for index in (made[split].index, elsewhere.index):
            assert content(index) == content(folders[split].index)
    expected = training_batches(folders["train"].index, folders["train"].config)
    for index in (made["train"].index, elsewhere_of(folders["train"], config, tmp_path).index):
        assert all(map(torch.equal, training_batches(index, config), expected))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == there


def elsewhere_of(prepared: Prepared, config: Config, tmp_path: Path) -> Prepared:
    return dataclasses.replace(prepared, config=config, directory=tmp_path / f"elsewhere-{prepared.index.split}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("class_folders", "train: 20 images, class folders in {root}/train"),
        ("downloads", "train: 20 images, the tar file {root}/ILSVRC2012_img_train.tar"),
        ("outer_unpacked", "train: 20 images, tar files of one class each in {root}/train"),
        ("kaggle", "train: 20 images, class folders in {root}/ILSVRC/Data/CLS-LOC/train"),
        ("webdataset", "train: 20 images, WebDataset tar files in {root}"),
    ],
)
def test_what_was_recognised_is_said_in_one_line(
    name: str, said: str, tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    getattr(formats, name)(tmp_path / "data", images)
    (train,) = run_prepare(tmp_path / "run", recipe(tmp_path / "data"), ("train",)).values()
    assert train.notes == [said.format(root=tmp_path / "data")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("downloads", "the tar file {root}/ILSVRC2012_img_val.tar; labels from {root}/ILSVRC2012_devkit_t12.tar.gz"),
        ("kaggle", "files in {root}/ILSVRC/Data/CLS-LOC/val; labels from {root}/LOC_val_solution.csv"),
    ],
)
def test_the_line_says_where_the_labels_of_flat_images_come_from(
    name: str, said: str, tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    getattr(formats, name)(tmp_path / "data", images)
    (val,) = run_prepare(tmp_path / "run", recipe(tmp_path / "data"), ("val",)).values()
    assert val.notes == ["val: 6 images, " + said.format(root=tmp_path / "data")]


@pytest.mark.parametrize("name", ["webdataset_without_names", "parquet_without_names"])
def test_where_names_are_gone_the_index_is_one_of_its_own_and_the_line_says_so(
    name: str, tmp_path: Path, images: dict[str, formats.Files], folders: dict[str, Prepared]
) -> None:
    data = {}
    if name.startswith("parquet"):
        pytest.importorskip("pyarrow")
        data["shards"] = str(tmp_path / "shards")
    getattr(formats, name)(tmp_path / "data", images)
    made = run_prepare(tmp_path / "run", recipe(tmp_path / "data", **data))
    for split in SPLITS:
        index = made[split].index
        assert index.digest != folders[split].index.digest
        assert sorted(content(index)) == sorted(content(folders[split].index))
        label_of = dict(zip(content(index), index.labels.tolist(), strict=True))
        expected = folders[split].index
        assert label_of == dict(zip(content(expected), expected.labels.tolist(), strict=True))
        assert (
            made[split]
            .notes[-1]
            .endswith("this format has dropped the images' names: the index, and so their order, is one of its own")
        )
    again = run_prepare(tmp_path / "again", recipe(tmp_path / "data", **data))
    assert again["train"].index.digest == made["train"].index.digest


def test_tars_are_found_again_where_they_have_moved_and_other_ones_are_refused(
    tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    root = tmp_path / "data"
    formats.downloads(root, images)
    (train,) = run_prepare(tmp_path / "run", recipe(root), ("train",)).values()
    assert {path.name for path in train.directory.glob("places-*")} == {"places-tar.json", "places-tar.npy"}
    moved = dataclasses.replace(train, config=recipe(root.rename(tmp_path / "moved")))
    assert sorted(content(moved.index)) == sorted(row[2] for row in images["train"])
    formats.downloads(tmp_path / "moved", {**images, "train": images["train"][1:]})
    with pytest.raises(
        UserError, match=r"the tar file .*img_train\.tar does not have the train images of this run: put"
    ):
        _ = moved.index


def test_a_part_of_imagenet_in_tars_is_found_again_where_it_has_moved(
    tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    root = tmp_path / "data"
    formats.webdataset(root, {**images, "val": images["val"][:4]})
    (val,) = run_prepare(tmp_path / "run", recipe(root), ("val",)).values()
    moved = dataclasses.replace(val, config=recipe(root.rename(tmp_path / "moved")))
    assert sorted(content(moved.index)) == sorted(row[2] for row in images["val"][:4])


def test_shards_are_written_from_tars(
    tmp_path: Path, images: dict[str, formats.Files], folders: dict[str, Prepared]
) -> None:
    formats.downloads(tmp_path / "data", images)
    config = recipe(tmp_path / "data", shards=str(tmp_path / "shards"))
    (train,) = run_prepare(tmp_path / "run", config, ("train",)).values()
    assert train.index.digest == folders["train"].index.digest
    assert content(train.index) == content(folders["train"].index)


def test_parquet_is_copied_once_and_needs_shards(tmp_path: Path, images: dict[str, formats.Files]) -> None:
    pytest.importorskip("pyarrow")
    formats.parquet(tmp_path / "data", images)
    with pytest.raises(UserError, match=r"data\.shards: needed, since single images of parquet files cannot be read"):
        run_prepare(tmp_path / "run", recipe(tmp_path / "data"))
    config = recipe(tmp_path / "data", shards=str(tmp_path / "shards"))
    run_prepare(tmp_path / "run", config)
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")}
    assert {path.name for path in copies} == {
        f"parquet-{split}-{word}-0000{number}-of-00002.tar"
        for split, word in (("train", "train"), ("val", "validation"))
        for number in (0, 1)
    }
    again = run_prepare(tmp_path / "again", config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")} == copies
    shutil.rmtree(tmp_path / "data")
    (again["train"].directory / "places-shards.npy").unlink()
    assert sorted(content(again["train"].index)) == sorted(row[2] for row in images["train"])


def test_damaged_tars_are_named(tmp_path: Path, images: dict[str, formats.Files]) -> None:
    formats.downloads(tmp_path, images)
    tar = tmp_path / "ILSVRC2012_img_val.tar"
    whole = tar.read_bytes()
    with tarfile.open(tar) as archive:
        second = archive.getmembers()[1]
    damaged = {
        "unexpected end of data": whole[: second.offset_data + 10],
        f"no end mark at byte {second.offset:,}": whole[: second.offset],
        "no end mark at byte ": whole[: second.offset] + b"\xff" * 512 + whole[second.offset + 512 :],
        "(truncated header|invalid header|bad checksum)": gzip.compress(whole),
    }
    for problem, content in damaged.items():
        tar.write_bytes(content)
        with pytest.raises(UserError, match=rf"{tar}: not a whole, uncompressed tar file \({problem}"):
            run_prepare(tmp_path / "run", recipe(tmp_path), ("val",))


def test_labels_in_another_order_than_the_names_are_refused(tmp_path: Path, images: dict[str, formats.Files]) -> None:
    other = {split: [(name, (label + 1) % 4, image) for name, label, image in rows] for split, rows in images.items()}
    formats.webdataset(tmp_path / "data", other)
    with pytest.raises(UserError, match=r"20 labels in .* are not places in the sorted order of the WordNet ids"):
        run_prepare(tmp_path / "run", recipe(tmp_path / "data"), ("train",))
    with pytest.raises(UserError, match=r"data\.val: the class folders in .* must give the devkit's ILSVRC2012_IDs"):
        run_prepare(tmp_path / "run", recipe(tmp_path / "data"), ("val",))


def test_kaggles_table_is_read_by_its_names_and_a_bad_line_is_named(
    tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    formats.kaggle(tmp_path / "data", images)
    base = tmp_path / "data" / "ILSVRC" / "Data" / "CLS-LOC"
    (val,) = run_prepare(tmp_path / "base", recipe(base), ("val",)).values()
    assert val.index.labels.tolist() == formats.LABELS
    table = tmp_path / "data" / "LOC_val_solution.csv"
    table.write_text(table.read_text().replace("n01440764 10", "tench 10", 1))
    with pytest.raises(UserError, match=r"LOC_val_solution\.csv:\d: must give an image, as .* \(given .*,tench 10"):
        run_prepare(tmp_path / "run", recipe(tmp_path / "data"), ("val",))


def test_tiny_imagenet_is_read_in_its_own_layout(tmp_path: Path, images: dict[str, formats.Files]) -> None:
    root, plain = tmp_path / "tiny", tmp_path / "plain"
    formats.tiny_imagenet(root, images)
    config = small_recipe(root)
    made = run_prepare(tmp_path / "run", config)
    for split in SPLITS:
        for name, label, image in zip(
            made[split].index.names, made[split].index.labels.tolist(), content(made[split].index), strict=True
        ):
            path = plain / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
            assert name.startswith(formats.WNIDS[label])
    as_folders = run_prepare(tmp_path / "folders", small_recipe(plain))
    for split in SPLITS:
        assert as_folders[split].index.digest == made[split].index.digest
    batches = training_batches(made["train"].index, config)
    assert all(map(torch.equal, batches, training_batches(as_folders["train"].index, config)))


def own_images(root: Path, images: dict[str, formats.Files]) -> dict[str, formats.Files]:
    """Class folders of other names."""
    for split in SPLITS:
        for number, (_, label, image) in enumerate(images[split]):
            path = root / split / f"kind {label}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    return images


@pytest.mark.parametrize("kind", ["tar", "class_tars", "webdataset", "parquet"])
def test_own_classes_in_large_files_give_the_index_of_their_folders(
    kind: str, tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    own_images(tmp_path / "plain", images)
    plain = run_prepare(tmp_path / "folders", small_recipe(tmp_path / "plain"))
    root, data = tmp_path / "data", dict[str, Any](dataset="folder")
    root.mkdir()
    for split in SPLITS:
        rows = [
            (name, int(label), read_image(plain[split].index, row))
            for row, (name, label) in enumerate(zip(plain[split].index.names, plain[split].index.labels, strict=True))
        ]
        if kind == "tar":
            data |= {split: f"{split}.tar"}
            with tarfile.open(root / f"{split}.tar", "w") as tar:
                tar.add(tmp_path / "plain" / split, split)
        elif kind == "class_tars":
            (root / split).mkdir()
            for folder in (tmp_path / "plain" / split).iterdir():
                with tarfile.open(root / split / f"{folder.name}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
                    tar.add(folder, ".")
        elif kind == "webdataset":
            with tarfile.open(root / f"own-{split}-000.tar", "w") as tar:
                for name, label, image in rows:
                    formats.add(tar, name, image)
                    formats.add(tar, f"{name.removesuffix('.jpg')}.cls", str(label).encode())
        else:
            pytest.importorskip("pyarrow")
            data["shards"] = str(tmp_path / "shards")
            names = [one.folder for one in plain[split].index.classes]
            cells = [(name.rpartition("/")[2], label, image) for name, label, image in rows]
            formats.write_parquet(root / split / "0000.parquet", cells, names)
    made = run_prepare(tmp_path / "run", small_recipe(root, data=data))
    for split in SPLITS:
        assert made[split].index.digest == plain[split].index.digest, split
        assert made[split].index.classes == plain[split].index.classes


def test_what_is_there_but_not_recognised_is_listed_with_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "archive.zip").touch()
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError) as caught:
        run_prepare(tmp_path / "run", small_recipe(tmp_path))
    first, second, there, packed, recognised, remedy = str(caught.value).splitlines()
    assert (first, second) == (
        f"data.train: must be a folder (given {tmp_path}/train); to evaluate weights without training, name them: "
        "evaluate.weights=FILE",
        f"data.val: must be a folder (given {tmp_path}/val)",
    )
    assert there == f"there is in {tmp_path}: archive.zip, pictures/, run/"
    assert packed == "unpack archive.zip: compressed archives are not read in place"
    assert recognised.startswith("recognised would be: class folders (train/<class>/x.jpg")
    assert remedy.endswith("data.val_fraction=0.1 holds out a tenth of each class")


def test_what_is_no_image_is_passed_over_in_tars_too(tmp_path: Path, images: dict[str, formats.Files]) -> None:
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for name, label, image in images["val"]:
            formats.add(tar, f"val/{formats.WNIDS[label]}/{name}", image)
        formats.add(tar, "val/n01440764/notes.txt", b"to do")
        formats.add(tar, "val/n01440764/@eaDir", b"")
        formats.add(tar, "val/SHA256SUMS.md5", b"123")
    config = small_recipe(tmp_path, data={"dataset": "folder", "val": "val.tar"})
    (val,) = run_prepare(tmp_path / "run", config, ("val",)).values()
    assert len(val.index) == formats.NUM_VAL
    ignored = {found.path for found in read_findings(val.directory) if found.finding == "ignored"}
    assert ignored == {"n01440764/notes.txt", "n01440764/@eaDir", "val/SHA256SUMS.md5"}
    assert "3 passed over that are no images" in val.notes[-1]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, images: dict[str, formats.Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"reading parquet files needs pyarrow: pip install 'senet154\[parquet\]'"):
        run_prepare(tmp_path / "run", recipe(tmp_path, shards=str(tmp_path / "shards")))


@pytest.mark.parametrize(
    ("member", "body", "message"),
    [
        ("a.cls", b"cat", r"x-val-0\.tar: a\.cls must be the number of a class \(given b'cat'\)"),
        ("a.json", b"[1]", r"x-val-0\.tar: a\.json must be JSON with the image's label \(given b'\[1\]'\)"),
        ("b.cls", b"1", r"data\.val: 1 of 1 images in .* have no label"),
        ("a.cls", b"4", r"data\.val: labels in .* must be 0 to 3 \(they are 4 to 4\)"),
    ],
)
def test_labels_of_webdatasets_that_are_none_are_named(
    member: str, body: bytes, message: str, tmp_path: Path, images: dict[str, formats.Files]
) -> None:
    with tarfile.open(tmp_path / "x-val-0.tar", "w") as tar:
        formats.add(tar, "a.jpg", images["val"][0][2])
        formats.add(tar, member, body)
    with pytest.raises(UserError, match=message):
        run_prepare(tmp_path / "run", recipe(tmp_path), ("val",))
