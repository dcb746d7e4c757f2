from __future__ import annotations

import dataclasses
import gc
import hashlib
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data import dali, dali_graph, dali_pipeline, decoding, loaders, reference
from pipeline.data.batch import Batch
from pipeline.data.crop import Crop
from pipeline.data.dali_pipeline import decoder_arguments
from pipeline.data.encoded import EncodedImages, Reading
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import StreamLoader, build_plan_loader, build_train_loader
from pipeline.data.sampling import sample_crops
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from tests.data.indexing import index_files, picture, write_pictures
from tests.recipes import small_recipe

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

CPU = torch.device("cpu")
ALONE = Ranks()
NUM_IMAGES = 50
GLOBAL_BATCH = 24
"""Does not divide the images, and can be shared by 1, 2, 3 and 8 processes."""
CROPS = (Crop(40, 32, "center"), Crop(40, 32, "bottom_right"), Crop(56, 48, "center"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    return index_files(write_pictures(tmp_path_factory.mktemp("pictures"), NUM_IMAGES))


def recipe(index: ImageIndex, backend: str = "dali", **sections: dict[str, Any] | int) -> Config:
    assert index.source is not None
    return small_recipe(index.source.folder, loader={"backend": backend}, **sections)


def train_loader(
    index: ImageIndex,
    ranks: Ranks = ALONE,
    micro_batch: int = 3,
    first_step: int = 0,
    last_step: int = 8,
    config: Config | None = None,
) -> StreamLoader:
    return build_train_loader(
        index,
        config or recipe(index),
        ranks,
        CPU,
        micro_batch=micro_batch,
        first_step=first_step,
        last_step=last_step,
    )


def contents(batches: list[Batch]) -> list[tuple[int, int, bytes, bytes]]:
    """Position, label, affine map and pixels of every image, in order."""
    return [
        (int(position), int(label), affine.numpy().tobytes(), image.numpy().tobytes())
        for batch in batches
        for image, label, position, affine in zip(
            batch.images, batch.labels, batch.positions, batch.affine, strict=True
        )
    ]


@pytest.fixture(scope="module")
def whole(index: ImageIndex) -> list[tuple[int, int, bytes, bytes]]:
    """All images of the first 8 steps, by one process that was never stopped."""
    return contents(list(train_loader(index)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_epoch_holds_each_image_once_at_any_world_size(index: ImageIndex, world_size: int) -> None:
    # 25 steps of 24 images are 12 epochs of 50.
    local = GLOBAL_BATCH // world_size
    ranks = [Ranks(rank, rank, world_size) for rank in range(world_size)]
    positions = [
        np.concatenate([batch.positions for batch in train_loader(index, rank, local, last_step=25)]) for rank in ranks
    ]
    stream = np.concatenate([share.reshape(25, local) for share in positions], axis=1).reshape(12, NUM_IMAGES)
    for epoch in stream:
        assert sorted(epoch.tolist()) == list(range(NUM_IMAGES))


def test_an_iterator_that_is_let_go_ends_its_threads_without_the_garbage_collector(index: ImageIndex) -> None:
    config, before = recipe(index), set(threading.enumerate())
    gc.collect()
    gc.disable()
    try:
        plan = build_plan_loader(index, np.arange(8), CROPS, 2, config.loader, CPU)
        next(iter(train_loader(index)))
        next(iter(plan))
        assert set(threading.enumerate()) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 24), (1, 1), (2, 4), (3, 8), (8, 3)])
def test_a_steps_images_do_not_depend_on_world_size_or_micro_batch(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]], world_size: int, micro_batch: int
) -> None:
    local = GLOBAL_BATCH // world_size
    shares = [
        contents(list(train_loader(index, Ranks(rank, rank, world_size), micro_batch))) for rank in range(world_size)
    ]
    steps = [share[step * local : (step + 1) * local] for step in range(8) for share in shares]
    assert [image for step in steps for image in step] == whole


def test_batches_are_as_the_contract_says(index: ImageIndex) -> None:
    batches = list(train_loader(index, micro_batch=6))
    assert len(batches) == 8 * GLOBAL_BATCH // 6
    for batch in batches:
        assert batch.images.shape == (6, 3, 32, 32)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.positions.dtype == torch.int64
        assert batch.affine.shape == (6, 2, 3)
        assert batch.affine.dtype == torch.float32
        assert batch.labels.tolist() == index.labels[batch.positions.numpy()].tolist()


@pytest.mark.parametrize("backend", ["dali", "reference"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 7, 8])
def test_resumed_loader_yields_exactly_the_rest(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]], backend: str, stop: int
) -> None:
    """Steps 2 and 4 hold the end of one epoch and the beginning of the next."""
    first = train_loader(index, config=recipe(index, backend))
    running = iter(first)
    before = contents([next(running) for _ in range(stop * 8)])
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    resumed = train_loader(index, micro_batch=8, config=recipe(index, backend))
    resumed.load_state_dict(state)
    after = contents(list(resumed))
    assert state["step"] == stop
    assert len(before) == stop * GLOBAL_BATCH
    if backend == "dali":
        assert before + after == whole
    else:
        assert before + after == contents(list(train_loader(index, config=recipe(index, backend))))


def test_resume_at_another_world_size_goes_on_with_the_same_images(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]]
) -> None:
    first = train_loader(index)
    running = iter(first)
    for _ in range(3 * 8):
        next(running)
    shares = []
    for rank in range(2):
        resumed = train_loader(index, Ranks(rank, rank, 2), micro_batch=12)
        resumed.load_state_dict(first.state_dict())
        shares.append([contents([batch]) for batch in resumed])
    rest = [image for parts in zip(*shares, strict=True) for part in parts for image in part]
    assert rest == whole[3 * GLOBAL_BATCH :]


def test_loader_that_begins_later_yields_exactly_the_rest(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]]
) -> None:
    assert contents(list(train_loader(index, first_step=5))) == whole[5 * GLOBAL_BATCH :]


def test_nothing_is_decoded_that_is_not_used(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    decode = dali.decode_crops
    monkeypatch.setattr(
        dali, "decode_crops", lambda reading, *rest: asked.extend(reading.positions) or decode(reading, *rest)
    )
    list(train_loader(index, first_step=5, last_step=7))
    assert len(asked) == 2 * GLOBAL_BATCH


def test_a_long_run_is_planned_in_segments_without_a_seam(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[int] = []
    decode = dali.decode_crops
    monkeypatch.setattr(
        dali,
        "decode_crops",
        lambda reading, *rest: planned.append(len(reading.positions)) or decode(reading, *rest),
    )
    monkeypatch.setattr(loaders, "SEGMENT_IMAGES", 3 * GLOBAL_BATCH + 5)
    loader = train_loader(index)
    running = iter(loader)
    batches, next_steps = [], []
    for _ in range(8):
        batches += [next(running) for _ in range(8)]
        next_steps.append(loader.state_dict()["step"])
    assert contents(batches) == whole
    assert next_steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert planned == [72, 72, 48]


@pytest.mark.parametrize("backend", ["dali", "reference"])
@pytest.mark.parametrize(("prefetch_images", "decode_batch"), [(1, 1), (50, 7), (5, 1000)])
def test_images_do_not_depend_on_what_is_decoded_at_once_or_ahead(
    index: ImageIndex,
    whole: list[tuple[int, int, bytes, bytes]],
    backend: str,
    prefetch_images: int,
    decode_batch: int,
) -> None:
    config = recipe(index, backend)
    loader = {"backend": backend, "prefetch_images": prefetch_images, "decode_batch": decode_batch}
    config = config.model_copy(update={"loader": LoaderConfig.model_validate(loader)})
    assert contents(list(train_loader(index, config=config))) == whole


class Spy:
    """Stands for a class or function of `loaders`, and tells how often it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls = 0
        self.called = threading.Semaphore(0)
        self._spied = getattr(loaders, name)
        monkeypatch.setattr(loaders, name, self)

    def __call__(self, *args: Any, **keys: Any) -> Any:
        self.calls += 1
        self.called.release()
        return self._spied(*args, **keys)

    def await_calls(self, number: int) -> None:
        for _ in range(number):
            assert self.called.acquire(timeout=20)


def with_loader(index: ImageIndex, **keys: Any) -> Config:
    return recipe(index).model_copy(update={"loader": LoaderConfig(**keys)})


def test_a_file_system_that_stalls_is_bridged_by_the_images_that_wait(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 images are 8 micro-batches of 3."""
    made, goes_on, read = Spy(monkeypatch, "Batch"), threading.Event(), EncodedImages.read
    goes_on.set()
    monkeypatch.setattr(EncodedImages, "read", lambda images, position: goes_on.wait() and read(images, position))
    loader = train_loader(index, last_step=40, config=with_loader(index, prefetch_images=24, decode_batch=6))
    batches = iter(loader)
    with ThreadPoolExecutor(1) as training:
        try:
            next(batches)
            made.await_calls(9)
            goes_on.clear()
            for _ in range(8):
                training.submit(next, batches).result(timeout=20)
        finally:
            goes_on.set()
    loader.close()


def test_no_more_images_wait_than_are_wanted(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation counts crops: 24 are two batches of four images with three crops each."""
    for loader, name, ahead in (
        (train_loader(index, last_step=40, config=with_loader(index, prefetch_images=24)), "Batch", 8),
        (build_plan_loader(index, np.arange(50), CROPS, 4, LoaderConfig(prefetch_images=24), CPU), "PlanBatch", 2),
    ):
        made = Spy(monkeypatch, name)
        batches = iter(loader)
        next(batches)
        made.await_calls(1 + ahead)
        loader.close()
        assert made.calls == 1 + ahead


def test_the_next_segment_is_planned_while_this_one_runs(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of the first segment is taken, and one waits; 7 are to come."""
    monkeypatch.setattr(loaders, "SEGMENT_IMAGES", GLOBAL_BATCH)
    planned = Spy(monkeypatch, "sample_crops")
    loader = train_loader(index, config=with_loader(index, prefetch_images=1))
    batches = iter(loader)
    next(batches)
    planned.await_calls(2)
    loader.close()
    assert planned.calls == 2


def test_a_fault_in_planning_is_raised_when_the_segment_before_has_ended(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "SEGMENT_IMAGES", GLOBAL_BATCH)
    plans = iter([sample_crops])
    monkeypatch.setattr(loaders, "sample_crops", lambda *given: next(plans, fail)(*given))
    batches = iter(train_loader(index))
    assert contents([next(batches) for _ in range(8)]) == whole[:GLOBAL_BATCH]
    with pytest.raises(ArithmeticError, match="no plan"):
        next(batches)


def fail(*_: object) -> None:
    raise ArithmeticError("no plan")


def test_state_is_refused_in_the_middle_of_a_step(index: ImageIndex) -> None:
    loader = train_loader(index)
    running = iter(loader)
    next(running)
    with pytest.raises(AssertionError, match="middle of a step"):
        loader.state_dict()
    loader.close()


def test_iterating_anew_begins_at_the_step_that_was_not_finished(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]]
) -> None:
    loader = train_loader(index)
    running = iter(loader)
    for _ in range(8 + 3):
        next(running)
    again = iter(loader)
    assert loader.state_dict()["step"] == 1
    assert contents(list(again)) == whole[GLOBAL_BATCH:]
    assert list(running) == []


def test_state_holds_the_step_the_images_and_the_version_of_the_stream(index: ImageIndex) -> None:
    state = train_loader(index, first_step=3).state_dict()
    assert state == {"step": 3, "index": index.digest, "stream_version": loaders.STREAM_VERSION}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": "0" * 64}, r"made from other images \(their index 0000000000, here [0-9a-f]{10}\): put back"),
        ({"stream_version": 1}, r"made from another order of the images \(version 1, here 2\): put back"),
    ],
    ids=["index", "stream_version"],
)
def test_state_of_other_images_or_another_stream_is_refused(
    index: ImageIndex, change: dict[str, Any], message: str
) -> None:
    loader = train_loader(index)
    with pytest.raises(UserError, match=f"the checkpoint was {message} .*another --run"):
        loader.load_state_dict({**train_loader(index, first_step=3).state_dict(), **change})
    assert loader.state_dict()["step"] == 0


def test_state_goes_on_with_another_decoder(index: ImageIndex) -> None:
    """What libraries decode with is recorded by attempt; before, an upgrade of DALI ended a training."""
    other = train_loader(index, config=recipe(index, "reference"))
    other.load_state_dict(train_loader(index, first_step=5).state_dict())
    assert other.state_dict()["step"] == 5


def test_state_does_not_depend_on_how_the_work_is_shared(index: ImageIndex) -> None:
    alone, shared = train_loader(index), train_loader(index, Ranks(1, 1, 2), micro_batch=4)
    assert alone.state_dict() == shared.state_dict()


def test_a_batch_that_is_kept_does_not_change(index: ImageIndex) -> None:
    kept = [(batch.images, batch.images.clone()) for batch in train_loader(index, last_step=20)]
    assert all(torch.equal(images, copy) for images, copy in kept)


def test_two_loaders_at_once_do_not_disturb_each_other(
    index: ImageIndex, whole: list[tuple[int, int, bytes, bytes]]
) -> None:
    crops = build_plan_loader(index, np.arange(NUM_IMAGES), CROPS, 7, LoaderConfig(), CPU)
    expected: list[Any] = [images for batch in crops for images in batch.crops]
    pairs = list(zip(train_loader(index), train_loader(index), strict=True))
    between: list[Any] = []
    trained = []
    for batch in train_loader(index):
        trained.append(batch)
        if len(trained) == 5:
            between = [images for part in crops for images in part.crops]
    assert contents([one for one, _ in pairs]) == contents([two for _, two in pairs]) == contents(trained) == whole
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(between, expected, strict=True))


def remove(file: Path) -> None:
    file.unlink()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zero_the_end(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:200] + bytes(len(content) - 200))


def replace(file: Path) -> None:
    write_pictures(file.parent / "other", 1)[0].replace(file)


def same_size(file: Path) -> None:
    """Another whole JPEG of as many bytes and pixels: what a decoder takes without a word."""
    other, size = io.BytesIO(), file.stat().st_size
    with Image.open(file) as image:
        picture(image.height, image.width, 77).save(other, "JPEG", quality=50)
    assert len(other.getvalue()) <= size
    file.write_bytes(other.getvalue().ljust(size, b"\0"))


@pytest.mark.parametrize("backend", ["dali", "reference"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove, r"cannot be read \(No such file or directory\)"),
        (cut_short, "[0-9,]+ bytes, .* when prepare read it"),
        (empty, "0 bytes, .* when prepare read it"),
        (replace, "[0-9,]+ bytes, .* when prepare read it"),
        (zero_the_end, r"its content has changed \(SHA-256 differs\)"),
        (same_size, r"its content has changed \(SHA-256 differs\)"),
    ],
)
def test_a_file_that_changed_since_prepare_is_named_before_a_step_is_taken_on_it(
    tmp_path: Path, backend: str, damage: Callable[[Path], None], problem: str
) -> None:
    index = index_files(write_pictures(tmp_path / "pictures", 12))
    damage(tmp_path / "pictures" / "007.JPEG")
    config = small_recipe(tmp_path, train={"global_batch": 12}, loader={"backend": backend})
    loader = train_loader(index, config=config)
    told = f"pictures/007.JPEG: {problem}\n.*put the old ones back, or begin anew with these in another run \\(--run\\)"
    seen: list[int] = []
    with pytest.raises(UserError, match=told):
        seen += (position for batch in loader for position in batch.positions.tolist())
    assert 7 not in seen
    crops = build_plan_loader(index, np.arange(12), CROPS, 5, LoaderConfig(backend=config.loader.backend), CPU)
    with pytest.raises(UserError, match=told):
        list(crops)


@pytest.mark.parametrize(("first_step", "last_compared"), [(0, 12), (3, 24), (6, 24)])
def test_content_is_compared_until_the_first_full_epoch_after_a_start_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_step: int, last_compared: int
) -> None:
    """Twelve images in steps of two: an epoch is six steps. Sizes are compared ever after."""
    files = write_pictures(tmp_path, 12)
    index, config = index_files(files), small_recipe(tmp_path, train={"global_batch": 2, "max_micro_batch": 2})
    hashed: list[int] = []
    compare = EncodedImages._read_compared

    def spy(images: EncodedImages, position: int, hashed_too: bool) -> Any:
        hashed.append(hashed_too)
        return compare(images, position, hashed_too)

    monkeypatch.setattr(EncodedImages, "_read_compared", spy)
    monkeypatch.setattr(loaders, "SEGMENT_IMAGES", 8)
    list(train_loader(index, micro_batch=2, first_step=first_step, last_step=20, config=config))
    compared = last_compared - 2 * first_step
    assert hashed == [True] * compared + [False] * (40 - 2 * first_step - compared)

    loader = iter(train_loader(index, micro_batch=2, last_step=40, config=config))
    for _ in range(12):
        next(loader)
    cut_short(files[0])
    with pytest.raises(UserError, match=r"000\.JPEG: [\d,]+ bytes"):
        list(loader)


def test_many_files_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits 50 ms for a network; DALI's reader opened one after another."""
    index = index_files(write_pictures(tmp_path, 32))
    read = EncodedImages.read
    monkeypatch.setattr(EncodedImages, "read", lambda images, position: time.sleep(0.05) or read(images, position))
    config = small_recipe(tmp_path, train={"global_batch": 8})
    started = time.monotonic()
    list(train_loader(index, micro_batch=4, last_step=16, config=config))
    assert time.monotonic() - started < 128 * 0.05 / 6


@pytest.mark.parametrize("backend", ["dali", "reference"])
def test_a_failure_on_unchanged_files_is_not_blamed_on_them(tmp_path: Path, backend: str) -> None:
    files = write_pictures(tmp_path / "pictures", 6)
    index = index_files(files)
    files[3].write_bytes(b"<html>not found</html>" * 20)
    num_bytes, sha256 = index.num_bytes.copy(), index.sha256.copy()
    num_bytes[3] = files[3].stat().st_size
    sha256[3] = list(hashlib.sha256(files[3].read_bytes()).digest())
    index = dataclasses.replace(index, num_bytes=num_bytes, sha256=sha256)
    # One image at once: DALI 2.4 releases the memory of a batch in which one fails while it still decodes the others.
    config = small_recipe(tmp_path, loader={"backend": backend, "decode_batch": 1})
    loader = train_loader(index, micro_batch=1, config=config)
    with pytest.raises(RuntimeError):
        list(loader)


def test_file_names_may_hold_spaces_and_any_utf8(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "pictures", 3)
    files[1] = files[1].rename(files[1].with_name("un café \t北.JPEG"))
    assert len(list(train_loader(index_files(files)))) == 64


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("dali", "loader.decode: no GPU is visible"),
        ("reference", "loader.decode: the reference loader decodes on the CPU"),
    ],
)
def test_decoding_on_a_gpu_that_is_not_there_is_refused(index: ImageIndex, backend: Any, message: str) -> None:
    loader = LoaderConfig(backend=backend, decode="gpu")
    with pytest.raises(UserError, match=message):
        build_plan_loader(index, np.arange(3), CROPS, 2, loader, CPU)


@pytest.mark.parametrize("backend", ["dali", "reference"])
@pytest.mark.parametrize(
    ("num_images", "batch", "sizes"), [(11, 4, [4, 4, 3]), (8, 4, [4, 4]), (3, 16, [3]), (0, 4, [])]
)
def test_crops_hold_each_position_once_and_in_order(
    index: ImageIndex, backend: Any, num_images: int, batch: int, sizes: list[int]
) -> None:
    positions = np.random.default_rng(1).permutation(NUM_IMAGES)[:num_images]
    crops = build_plan_loader(index, positions, CROPS, batch, LoaderConfig(backend=backend), CPU)
    batches = list(crops)
    assert len(crops) == len(batches)
    assert [len(part.positions) for part in batches] == sizes
    assert [position for part in batches for position in part.positions.tolist()] == positions.tolist()
    for part in batches:
        assert part.labels.tolist() == index.labels[part.positions.numpy()].tolist()
        for images, crop in zip(part.crops, CROPS, strict=True):
            assert images.shape == (len(part.positions), 3, crop.crop_px, crop.crop_px)
            assert images.dtype == torch.uint8
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_crops_do_not_depend_on_the_batch_or_the_time(index: ImageIndex) -> None:
    crops: Any = build_plan_loader(index, np.arange(11), CROPS, 4, LoaderConfig(), CPU)
    one_by_one = LoaderConfig(threads=1, prefetch_images=1, decode_batch=1)
    alone: Any = build_plan_loader(index, np.arange(11), CROPS, 1, one_by_one, CPU)
    for number in range(len(CROPS)):
        first, again, single = (torch.cat([part.crops[number] for part in loader]) for loader in (crops, crops, alone))
        assert torch.equal(first, again)
        assert torch.equal(first, single)


def test_a_plan_loader_can_be_closed_or_begun_anew_half_way(index: ImageIndex) -> None:
    crops = build_plan_loader(index, np.arange(11), CROPS, 4, LoaderConfig(), CPU)
    running = iter(crops)
    next(running)
    crops.close()
    assert list(running) == []
    earlier = iter(crops)
    next(earlier)
    assert len(list(crops)) == 3
    assert list(earlier) == []


@pytest.mark.parametrize(
    ("decoder", "crops", "fewest", "by_threads"),
    [
        ("auto", CROPS, NUM_IMAGES + 1, False),
        ("auto", CROPS, NUM_IMAGES, True),
        ("auto", CROPS[:1], NUM_IMAGES, False),
        ("dali", CROPS, NUM_IMAGES, False),
        ("threads", CROPS[:1], NUM_IMAGES + 1, True),
    ],
)
def test_the_decoder_of_an_evaluation_is_chosen_by_its_split_and_not_by_the_part_that_is_read(
    index: ImageIndex,
    monkeypatch: pytest.MonkeyPatch,
    decoder: Any,
    crops: tuple[Crop, ...],
    fewest: int,
    by_threads: bool,
) -> None:
    monkeypatch.setattr(decoding, "_FEWEST_FOR_THREADS", fewest)
    monkeypatch.setattr(dali if by_threads else reference, "decode_plan", fail)
    assert list(build_plan_loader(index, np.arange(3), crops, 4, LoaderConfig(decoder=decoder), CPU))


@pytest.mark.parametrize(("decoder", "other"), [("auto", reference), ("dali", reference), ("threads", dali)])
def test_the_decoder_of_training_is_chosen(
    index: ImageIndex, whole: list[Any], monkeypatch: pytest.MonkeyPatch, decoder: Any, other: Any
) -> None:
    monkeypatch.setattr(other, "decode_crops", fail)
    assert contents(list(train_loader(index, config=with_loader(index, decoder=decoder)))) == whole


def test_what_cannot_decode_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"decoder: backend 'reference' decodes by threads; leave it out \(given dali\)"
    ):
        LoaderConfig(backend="reference", decoder="dali")


@pytest.mark.parametrize(("load", "taken"), [(0.0, 0.0), (0.3, 0.0), (0.65, 1.0), (1.0, 1.0)])
def test_an_evaluation_never_divides_a_batch_between_two_decoders(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch, load: float, taken: float
) -> None:
    seen: list[float] = []

    def spy(*given: Any, **keys: Any) -> dict[str, Any]:
        seen.append(decoder_arguments(given[0], 0, **keys)["hw_decoder_load"])
        return decoder_arguments(*given, **keys)

    monkeypatch.setattr(dali_pipeline, "decoder_arguments", spy)
    reading = Reading(index, np.arange(3), 3, LoaderConfig(hw_decoder_load=load), compared=3)
    assert len(list(dali_graph.decode_plan(reading, CROPS, None))) == 1
    assert seen == [taken]


def test_dali_takes_the_arguments_of_decoding_on_a_gpu() -> None:
    arguments = decoder_arguments(
        LoaderConfig(fancy_upsampling=True, hw_decoder_load=0.5, preallocate_px=512), 0, may_divide=True
    )
    assert arguments.items() >= {
        ("device", "mixed"),
        ("jpeg_fancy_upsampling", True),
        ("hw_decoder_load", 0.5),
        ("preallocate_width_hint", 512),
        ("preallocate_height_hint", 512),
    }
    with Pipeline(batch_size=1, num_threads=1, device_id=0):
        (files,) = fn.external_source([], num_outputs=1)
        fn.decoders.image_slice(files, [0, 0], [1, 1], **arguments)  # checks the names and types


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_images_decoded_on_the_gpu_are_those_of_the_cpu(index: ImageIndex) -> None:
    gpu = torch.device("cuda", 0)
    config = recipe(index)
    on_gpu = build_train_loader(index, config, Ranks(), gpu, micro_batch=6, first_step=0, last_step=8)
    for ours, theirs in zip(on_gpu, train_loader(index, micro_batch=6), strict=True):
        assert ours.images.device == gpu
        assert ours.labels.is_pinned()
        assert ours.positions.tolist() == theirs.positions.tolist()
        assert (ours.images.cpu().float() - theirs.images.float()).abs().mean() < 2
    crops = zip(
        *(build_plan_loader(index, np.arange(11), CROPS, 4, LoaderConfig(), device) for device in (gpu, CPU)),
        strict=True,
    )
    for ours, theirs in crops:
        for one, two in zip(ours.crops, theirs.crops, strict=True):
            assert one.device == gpu
            assert (one.cpu().float() - two.float()).abs().mean() < 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_images_kept_on_the_gpu_do_not_change(index: ImageIndex) -> None:
    loader = build_train_loader(
        index, recipe(index), Ranks(), torch.device("cuda", 0), micro_batch=6, first_step=0, last_step=20
    )
    kept = [(batch.images, batch.images.clone()) for batch in loader]
    assert all(torch.equal(images, copy) for images, copy in kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pixels_of_the_gpu_depend_on_the_image_alone(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on what is decoded at once or ahead, nor on two pipelines at once at a change of segment."""

    def pixels(**keys: Any) -> torch.Tensor:
        config, gpu = with_loader(index, **keys), torch.device("cuda", 0)
        loader = build_train_loader(index, config, ALONE, gpu, micro_batch=6, first_step=0, last_step=8)
        # Copied on the training's stream, right after the batch was handed over.
        return torch.cat([batch.images.clone() for batch in loader])

    expected = pixels(decode_batch=6, prefetch_images=6)
    assert torch.equal(pixels(decode_batch=24), expected)
    monkeypatch.setattr(loaders, "SEGMENT_IMAGES", GLOBAL_BATCH)
    assert torch.equal(pixels(decode_batch=12, prefetch_images=12), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_memory_of_the_gpu_is_shared_with_dali(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.dlpack, "from_dlpack", fail)
    gpu = torch.device("cuda", 0)
    loader = build_train_loader(index, recipe(index), ALONE, gpu, micro_batch=6, first_step=0, last_step=2)
    assert [batch.images.device for batch in loader] == [gpu] * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fancy_upsampling_on_the_gpu_comes_closer_to_the_cpu(index: ImageIndex) -> None:
    def difference(fancy: bool) -> float:
        config, gpu = with_loader(index, fancy_upsampling=fancy), torch.device("cuda", 0)
        loader = build_train_loader(index, config, ALONE, gpu, micro_batch=6, first_step=0, last_step=8)
        pairs = zip(loader, train_loader(index, micro_batch=6), strict=True)
        return sum((one.images.cpu().float() - two.images.float()).abs().mean().item() for one, two in pairs)

    assert difference(fancy=True) < difference(fancy=False)
