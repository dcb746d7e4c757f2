from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.crop import Crop
from pipeline.data.encoded import EncodedImages
from pipeline.data.index import Dataset, ImageClass, ImageRecord, read_dataset, write_dataset
from pipeline.data.inspection import inspect_file
from pipeline.data.loaders import build_plan_loader, build_train_loader
from pipeline.data.shards import Shard, plan_shards, read_shards, write_shard, write_shards
from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.store.lock import exclusive
from tests.data.indexing import picture, write_pictures
from tests.processes import fork_context
from tests.recipes import small_recipe

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

CPU = torch.device("cpu")
NUM_IMAGES = 40
SHARD_BYTES = 20_000


@pytest.fixture(autouse=True, scope="module")
def one_fork_server() -> None:
    """The workers come from the server that the tests share, whichever of them starts it."""
    fork_context()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small JPEGs, a PNG, a grey one and a large one."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, NUM_IMAGES - 3)
    picture(60, 70, 1).save(folder / "a.png")
    picture(90, 80, 2).convert("L").save(folder / "b.jpg")
    picture(200, 300, 3).save(folder / "c.jpg", quality=95)
    return folder


def no_note(text: str) -> None:
    pytest.fail(f"unexpected note: {text}")


def inspect(folder: Path) -> list[ImageRecord]:
    records = []
    for number, path in enumerate(sorted(folder.iterdir())):
        found = inspect_file(str(path))
        sizes = found.num_bytes, found.width, found.height
        records.append(ImageRecord(path.name, number % 4, *sizes, found.sha256, found.flags))
    return records


def shard(folder: Path, pictures: Path, resize_px: int | None = None) -> list[Shard]:
    shards = plan_shards(folder, "train", pictures, inspect(pictures), resize_px, SHARD_BYTES)
    folder.mkdir(exist_ok=True)
    for one in shards:
        write_shard(one)
    return shards


def dataset(directory: Path, pictures: Path, shards: list[Shard] | None) -> Dataset:
    """What `prepare` leaves, with the pictures as both splits."""
    directory.mkdir()
    records, places = (inspect(pictures), None) if shards is None else read_shards(shards)
    classes = [ImageClass(label, str(label), str(label), None) for label in range(4)]
    roots, rows = dict.fromkeys(("train", "val"), pictures), dict.fromkeys(("train", "val"), records)
    tables = None if places is None else dict.fromkeys(("train", "val"), places)
    write_dataset(directory, "x", classes, roots, rows, tables)
    return read_dataset(directory)


def test_a_shard_is_a_webdataset_of_the_very_files(tmp_path: Path, pictures: Path) -> None:
    shards = shard(tmp_path / "shards", pictures)
    assert len(shards) > 2
    assert [record for one in shards for record in one.records] == inspect(pictures)
    for one in shards:
        assert sum(record.num_bytes for record in one.records) < 2 * SHARD_BYTES or len(one.records) == 1
        with tarfile.open(one.path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        expected: list[tuple[str, bytes]] = []
        for position, record in enumerate(one.records, one.first_position):
            suffix = "png" if record.path.endswith("png") else "jpg"
            expected.append((f"{position:08d}.{suffix}", (pictures / record.path).read_bytes()))
            expected.append((f"{position:08d}.cls", str(record.label).encode()))
        assert members == expected


def test_the_table_finds_every_image_in_any_order(tmp_path: Path, pictures: Path) -> None:
    index = dataset(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures)).train
    positions = np.random.default_rng(3).permutation(NUM_IMAGES)
    with EncodedImages(index, positions) as images:
        for position in positions:
            assert images.read(position) == (pictures / index.paths[position]).read_bytes()
        batches = list(images.read_batches(positions, batch=7, ahead=2))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]
    found = [image.tobytes() for batch in batches for image in batch]
    assert found == [(pictures / index.paths[position]).read_bytes() for position in positions]


@pytest.mark.parametrize("backend", ["dali", "reference"])
def test_batches_and_crops_are_those_of_the_files_bit_for_bit(backend: str, tmp_path: Path, pictures: Path) -> None:
    config = small_recipe(pictures, loader={"backend": backend})
    results = []
    shards = shard(tmp_path / "tars", pictures)
    for name, one in (("files", None), ("shards", shards)):
        prepared = dataset(tmp_path / name, pictures, one)
        assert prepared.train.digest == read_dataset(tmp_path / "files").train.digest
        loader = build_train_loader(prepared.train, config, Ranks(), CPU, micro_batch=6, first_step=1, last_step=4)
        batches = [(batch.images, batch.labels, batch.positions, batch.angles) for batch in loader]
        order = np.arange(NUM_IMAGES)[::-1].copy()
        crops = (Crop(40, 32, "center"), Crop(56, 48, "bottom_right"))
        crops = build_plan_loader(prepared.val, order, crops, 16, config.loader, CPU)
        results.append([*batches, *((*batch.crops, batch.labels, batch.positions) for batch in crops)])
    assert len(results[0]) == len(results[1]) == 12 + 3
    for files, sharded in zip(*results, strict=True):
        for expected, found in zip(files, sharded, strict=True):
            assert torch.equal(expected, found)


def test_longer_sides_are_brought_down_and_the_index_describes_what_is_stored(tmp_path: Path, pictures: Path) -> None:
    shards = shard(tmp_path / "shards", pictures, resize_px=64)
    before, (after, _) = inspect(pictures), read_shards(shards)
    index = dataset(tmp_path / "prepared", pictures, shards).train
    changed = 0
    with EncodedImages(index, np.arange(NUM_IMAGES)) as images:
        for position, (old, new) in enumerate(zip(before, after, strict=True)):
            content = images.read(position)
            if min(old.width, old.height) <= 64:
                assert new == old
                assert content == (pictures / old.path).read_bytes()
                continue
            changed += 1
            with Image.open(io.BytesIO(content)) as image:
                assert (image.size, image.format) == ((new.width, new.height), "JPEG")
                assert min(image.size) == 64
                assert abs(new.width / new.height - old.width / old.height) < 0.02
                assert (image.mode == "L") == ("grey" in new.flags) == ("grey" in old.flags)
            assert (new.path, new.label, new.num_bytes) == (old.path, old.label, len(content))
    assert 3 < changed < NUM_IMAGES
    config = small_recipe(pictures)
    loader = build_train_loader(index, config, Ranks(), CPU, micro_batch=6, first_step=0, last_step=2)
    assert sum(len(batch.images) for batch in loader) == 48


def test_whole_shards_are_kept_and_others_written_again(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "shards"
    shards = shard(folder, pictures)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.glob("*.tar"):
        os.utime(path, ns=(0, 0))
    (folder / "train-00000.tar").write_bytes(before["train-00000.tar"][:5000])
    (folder / "train-00001.json").unlink()
    (folder / ".tmp-1-train-00002.tar").write_bytes(b"of a killed process")
    told: list[tuple[int, int]] = []
    write_shards(folder, shards, StopFlag(), lambda done, total, rate: told.append((done, total)), no_note, 2)
    assert told[-1] == (NUM_IMAGES, NUM_IMAGES)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before
    written = {path.name for path in folder.glob("*.tar") if path.stat().st_mtime_ns > 0}
    assert written == {"train-00000.tar", "train-00001.tar"}


def test_shards_that_another_run_may_read_are_not_written_over(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "shards"
    shard(folder, pictures)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    smaller = plan_shards(folder, "train", pictures, inspect(pictures), 64, SHARD_BYTES)
    fewer = plan_shards(folder, "train", pictures, inspect(pictures)[1:], None, SHARD_BYTES)
    for others in (smaller, fewer):
        message = r"data\.shards: .*train-00000\.tar was made of other images, or at another size, and other runs may"
        with pytest.raises(UserError, match=message):
            write_shards(folder, others, StopFlag(), lambda *told: None, no_note, 1)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "shards").write_text("")
    shards = plan_shards(tmp_path / "shards", "train", pictures, inspect(pictures), None)
    with pytest.raises(UserError, match=r"data\.shards: must be a folder, or a name that is free for one \(given /"):
        write_shards(tmp_path / "shards", shards, StopFlag(), lambda *told: None, no_note, 1)


def test_a_stop_ends_the_writing_and_says_how_far_it_was(tmp_path: Path, pictures: Path) -> None:
    stop = StopFlag()
    stop.reason = "SIGTERM"
    shards = plan_shards(tmp_path / "shards", "train", pictures, inspect(pictures), None, SHARD_BYTES)
    with pytest.raises(StopRequested, match=r"stopped by SIGTERM after \d+ of 40 images were written to shards"):
        write_shards(tmp_path / "shards", shards, stop, lambda *told: None, no_note, 1)
    assert not list((tmp_path / "shards").glob(".tmp-*"))


def test_two_runs_that_share_a_folder_take_turns(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    shards = shard(folder, pictures)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    notes: list[str] = []
    with contextlib.ExitStack() as first:
        first.enter_context(exclusive(folder))
        monkeypatch.setattr("time.sleep", lambda seconds: first.close())
        write_shards(folder, shards, StopFlag(), lambda *told: None, notes.append, 1)
    assert len(notes) == 1
    assert re.fullmatch(rf"waiting for pid {os.getpid()} on .*, at work in {re.escape(str(folder))}", notes[0])
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")} == before


def test_who_waits_for_its_turn_can_be_stopped(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, stop = tmp_path / "shards", StopFlag()
    shards = shard(folder, pictures)
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(stop, "reason", "SIGTERM"))
    with exclusive(folder), pytest.raises(StopRequested, match=r"stopped by SIGTERM while waiting: .*another process"):
        write_shards(folder, shards, stop, lambda *told: None, lambda text: None, 1)


def test_an_image_that_changed_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_pictures(folder, 3)
    (one,) = plan_shards(tmp_path, "train", folder, inspect(folder), None)
    (folder / "001.JPEG").write_bytes((folder / "000.JPEG").read_bytes())
    with pytest.raises(UserError, match=r"001\.JPEG: its content has changed since it was checked; run prepare again"):
        write_shard(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


@pytest.mark.parametrize("backend", ["dali", "reference"])
def test_a_shard_that_is_not_the_one_prepared_is_named(backend: str, tmp_path: Path, pictures: Path) -> None:
    index = dataset(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures)).train
    assert index.places is not None
    config = small_recipe(pictures, loader={"backend": backend})
    victim = Path(index.places.shard(0))
    whole = victim.read_bytes()

    def read_all() -> None:
        for _ in build_train_loader(index, config, Ranks(), CPU, micro_batch=6, first_step=0, last_step=4):
            pass

    victim.write_bytes(whole[:-1024])
    with pytest.raises(UserError, match=r"train-00000\.tar: [\d,]+ bytes, [\d,]+ when prepare wrote it; restore it"):
        read_all()
    victim.unlink()
    with pytest.raises(UserError, match=r"train-00000\.tar: cannot be read \(No such file or directory\); restore it"):
        read_all()
    offset, size = int(index.places.offsets[0]), int(index.num_bytes[0])
    victim.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    with pytest.raises(UserError, match=r"train-00000\.tar: 000\.JPEG: its content has changed \(SHA-256 differs\)"):
        read_all()


def test_shards_inside_the_stage_directory_move_with_it(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "prepared").mkdir()
    shards = shard(tmp_path / "prepared" / "shards", pictures)
    _, places = read_shards(shards)
    records = inspect(pictures)
    roots, rows = dict.fromkeys(("train", "val"), pictures), dict.fromkeys(("train", "val"), records)
    write_dataset(tmp_path / "prepared", "x", [], roots, rows, dict.fromkeys(("train", "val"), places))
    moved = (tmp_path / "prepared").rename(tmp_path / "moved")
    index = read_dataset(moved).train
    with EncodedImages(index, np.array([5])) as images:
        assert images.read(5) == (pictures / records[5].path).read_bytes()


def test_the_loader_reads_no_file_of_its_own_where_there_are_shards(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_pictures(folder, 24)
    index = dataset(tmp_path / "prepared", folder, shard(tmp_path / "shards", folder)).train
    folder.rename(tmp_path / "gone")
    config = small_recipe(folder)
    loader = build_train_loader(index, config, Ranks(), CPU, micro_batch=6, first_step=0, last_step=1)
    assert sorted(int(position) for batch in loader for position in batch.positions) == list(range(24))
