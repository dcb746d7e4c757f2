from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.data import DataConfig
from pipeline.config.operations import LoaderConfig
from pipeline.data.encoded import EncodedImages, Reading
from pipeline.data.index import FLAGS, ImageClass, ImageIndex, make_index, read_index, write_index
from pipeline.data.inspection import inspect_file
from pipeline.data.loaders import build_train_loader
from pipeline.data.places import Source, write_places
from pipeline.data.shards import Shard, plan_shards, read_shards, write_shard, write_shards
from pipeline.data.source import locate
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


def inspect(folder: Path, first: int = 0) -> ImageIndex:
    """The index of the pictures in their own files."""
    rows = [(path.name, number % 4, inspect_file(str(path))) for number, path in enumerate(sorted(folder.iterdir()))]
    names, labels, found = zip(*rows[first:], strict=True)
    index = make_index(
        "train",
        "x",
        [ImageClass(label, str(label), str(label), None) for label in range(4)],
        names,
        labels,
        [each.num_bytes for each in found],
        [each.width for each in found],
        [each.height for each in found],
        [list(bytes.fromhex(each.sha256)) for each in found],
        [sum(1 << FLAGS.index(flag) for flag in each.flags) for each in found],
    )
    return dataclasses.replace(index, source=Source("folders", folder))


def shard(folder: Path, pictures: Path, resize_px: int | None = None) -> list[Shard]:
    shards = plan_shards(folder, inspect(pictures), resize_px, SHARD_BYTES)
    folder.mkdir(exist_ok=True)
    for one in shards:
        write_shard(one)
    return shards


def prepared(directory: Path, pictures: Path, shards: list[Shard]) -> ImageIndex:
    """What `prepare` leaves, located in the shards."""
    directory.mkdir()
    index, places = read_shards(shards, inspect(pictures))
    write_index(directory, index)
    write_places(directory, index.digest, places)
    return relocated(directory, Path(shards[0].path).parent)


def relocated(directory: Path, folder: Path) -> ImageIndex:
    return locate(read_index(directory), directory, DataConfig(dataset="folder", root="gone", shards=str(folder)))


def test_a_shard_is_a_webdataset_of_the_very_files(tmp_path: Path, pictures: Path) -> None:
    shards = shard(tmp_path / "shards", pictures)
    assert len(shards) > 2
    assert [name for one in shards for name in one.images.names] == list(inspect(pictures).names)
    for one in shards:
        assert one.images.num_bytes.sum() < 2 * SHARD_BYTES or len(one.images) == 1
        with tarfile.open(one.path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        expected: list[tuple[str, bytes]] = []
        for position, (name, label) in enumerate(zip(one.images.names, one.images.labels, strict=True)):
            suffix = "png" if name.endswith("png") else "jpg"
            number = f"{one.first_position + position:08d}"
            expected += [(f"{number}.{suffix}", (pictures / name).read_bytes()), (f"{number}.cls", str(label).encode())]
        assert members == expected


def test_the_table_finds_every_image_in_any_order(tmp_path: Path, pictures: Path) -> None:
    index = prepared(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures))
    assert index.digest == inspect(pictures).digest
    positions = np.random.default_rng(3).permutation(NUM_IMAGES)
    with EncodedImages(index, positions) as images:
        for position in positions:
            assert images.read(position) == (pictures / index.names[position]).read_bytes()
        batches = list(images.read_batches(Reading(index, positions, 7, LoaderConfig(), NUM_IMAGES)))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]
    found = [image.tobytes() for batch in batches for image in batch]
    assert found == [(pictures / index.names[position]).read_bytes() for position in positions]


def test_longer_sides_are_brought_down_and_the_index_describes_what_is_stored(tmp_path: Path, pictures: Path) -> None:
    shards = shard(tmp_path / "shards", pictures, resize_px=64)
    before, grey = inspect(pictures), 1 << FLAGS.index("grey")
    index = prepared(tmp_path / "prepared", pictures, shards)
    assert list(index.names) == list(before.names)
    assert index.labels.tolist() == before.labels.tolist()
    changed = 0
    with EncodedImages(index, np.arange(NUM_IMAGES)) as images:
        for position in range(NUM_IMAGES):
            content, was = images.read(position), (pictures / before.names[position]).read_bytes()
            assert index.num_bytes[position] == len(content)
            assert images.problem(position) is None
            if min(before.widths[position], before.heights[position]) <= 64:
                assert content == was
                assert index.flags[position] == before.flags[position]
                continue
            changed += 1
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                assert (index.widths[position], index.heights[position], image.format) == (width, height, "JPEG")
                assert min(image.size) == 64
                assert abs(width / height - before.widths[position] / before.heights[position]) < 0.02
                assert (image.mode == "L") == bool(index.flags[position] & grey) == bool(before.flags[position] & grey)
    assert 3 < changed < NUM_IMAGES
    loader = build_train_loader(index, small_recipe(pictures), Ranks(), CPU, micro_batch=6, first_step=0, last_step=2)
    assert sum(len(batch.images) for batch in loader) == 48


def test_a_lost_table_is_made_again_from_the_shards(tmp_path: Path, pictures: Path) -> None:
    index = prepared(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures, resize_px=64))
    table = tmp_path / "prepared" / "places-shards.npy"
    content = table.read_bytes()
    table.write_bytes(content[:200] + bytes(len(content) - 200))
    again = relocated(tmp_path / "prepared", tmp_path / "shards")
    assert table.read_bytes() == content
    with EncodedImages(index, np.arange(NUM_IMAGES)) as one, EncodedImages(again, np.arange(NUM_IMAGES)) as other:
        assert [one.read(row) for row in range(NUM_IMAGES)] == [other.read(row) for row in range(NUM_IMAGES)]


def test_shards_are_found_where_the_recipe_says_that_they_are_now(tmp_path: Path, pictures: Path) -> None:
    prepared(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures))
    (tmp_path / "shards").rename(tmp_path / "moved")
    index = relocated(tmp_path / "prepared", tmp_path / "moved")
    with EncodedImages(index, np.array([5])) as images:
        assert images.read(5) == (pictures / index.names[5]).read_bytes()
    assert not any(b"shards/" in path.read_bytes() for path in (tmp_path / "prepared").glob("places-*"))


def test_a_folder_without_the_shards_of_these_images_is_refused(tmp_path: Path, pictures: Path) -> None:
    prepared(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures))
    (tmp_path / "none").mkdir()
    with pytest.raises(
        UserError,
        match=r"data\.shards: .*/none does not have the train images of this run \(0 images in whole shards, and not "
        r"the 40 of this run\); put its shards there, name the folder that has them, or leave data\.shards out",
    ):
        relocated(tmp_path / "prepared", tmp_path / "none")
    write_pictures(tmp_path / "others", 3)
    shard(tmp_path / "tars", tmp_path / "others")
    with pytest.raises(UserError, match=r"tars does not have the train images of this run \(3 images in whole shards"):
        relocated(tmp_path / "prepared", tmp_path / "tars")


def test_whole_shards_are_kept_and_others_written_again(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "shards"
    shards = shard(folder, pictures)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.glob("*.tar"):
        os.utime(path, ns=(0, 0))
    (folder / "train-00000.tar").write_bytes(before["train-00000.tar"][:5000])
    (folder / "train-00001.seal.json").unlink()
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
    smaller = plan_shards(folder, inspect(pictures), 64, SHARD_BYTES)
    fewer = plan_shards(folder, inspect(pictures, first=1), None, SHARD_BYTES)
    for others in (smaller, fewer):
        message = r"data\.shards: .*train-00000\.tar was made from other images, or at another size, and other runs may"
        with pytest.raises(UserError, match=message):
            write_shards(folder, others, StopFlag(), lambda *told: None, no_note, 1)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "shards").write_text("")
    shards = plan_shards(tmp_path / "shards", inspect(pictures), None)
    with pytest.raises(UserError, match=r"data\.shards: must be a folder, or a name that is free for one \(given /"):
        write_shards(tmp_path / "shards", shards, StopFlag(), lambda *told: None, no_note, 1)


def test_a_stop_ends_the_writing_and_says_how_far_it_was(tmp_path: Path, pictures: Path) -> None:
    stop = StopFlag()
    stop.reason = "SIGTERM"
    shards = plan_shards(tmp_path / "shards", inspect(pictures), None, SHARD_BYTES)
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
    (one,) = plan_shards(tmp_path, inspect(folder), None)
    (folder / "001.JPEG").write_bytes((folder / "000.JPEG").read_bytes())
    with pytest.raises(UserError, match=r"001\.JPEG: its content has changed since it was checked; run prepare again"):
        write_shard(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures"]


def test_a_damaged_seal_has_its_shard_written_again_with_one_line(tmp_path: Path, pictures: Path) -> None:
    folder, notes = tmp_path / "shards", list[str]()
    shards = shard(folder, pictures)
    seal = folder / "train-00001.seal.json"
    content = seal.read_bytes()
    seal.write_bytes(content.replace(b'"offset', b'"Offset').replace(b"0", b"1", 1))
    write_shards(folder, shards, StopFlag(), lambda *told: None, notes.append, 1)
    assert seal.read_bytes() == content
    assert notes == [f"{seal}: damaged (its own SHA-256 does not fit); the shard is written again"]


@pytest.mark.parametrize("backend", ["dali", "reference"])
def test_a_shard_that_is_not_the_one_prepared_is_named(backend: str, tmp_path: Path, pictures: Path) -> None:
    index = prepared(tmp_path / "prepared", pictures, shard(tmp_path / "shards", pictures))
    config = small_recipe(pictures, loader={"backend": backend})
    victim = Path(index.file(0))
    whole = victim.read_bytes()

    def read_all() -> None:
        for _ in build_train_loader(index, config, Ranks(), CPU, micro_batch=6, first_step=0, last_step=4):
            pass

    victim.write_bytes(whole[:-1024])
    with pytest.raises(UserError, match=r"train-00000\.tar: [\d,]+ bytes, [\d,]+ when prepare wrote it; restore it"):
        read_all()
    with pytest.raises(
        UserError, match=r"shards does not have .* images in whole shards.*; not whole: train-00000\.tar\)"
    ):
        relocated(tmp_path / "prepared", tmp_path / "shards")
    victim.unlink()
    with pytest.raises(UserError, match=r"train-00000\.tar: cannot be read \(No such file or directory\); restore it"):
        read_all()
    assert index.source is not None
    assert index.source.places is not None
    offset, size = int(index.source.places.offsets[0]), int(index.num_bytes[0])
    victim.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    with pytest.raises(UserError, match=r"train-00000\.tar: 000\.JPEG: its content has changed \(SHA-256 differs\)"):
        read_all()


def test_the_loader_reads_no_file_of_its_own_if_there_are_shards(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    write_pictures(folder, 24)
    index = prepared(tmp_path / "prepared", folder, shard(tmp_path / "shards", folder))
    folder.rename(tmp_path / "gone")
    config = small_recipe(folder)
    loader = build_train_loader(index, config, Ranks(), CPU, micro_batch=6, first_step=0, last_step=1)
    assert sorted(int(position) for batch in loader for position in batch.positions) == list(range(24))
