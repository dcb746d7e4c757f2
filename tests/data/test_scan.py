from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import scan as scanning
from pipeline.data.inspection import Inspection, inspect_file
from pipeline.data.layout import Layout
from pipeline.data.places import Source
from pipeline.data.scan import Chunk, plan_chunks, read_inspections, scan
from pipeline.data.tree import read_tree
from pipeline.ground.errors import StopRequested
from pipeline.ground.stop import StopFlag
from pipeline.store.file import write_bytes
from tests.images import write_image_folders
from tests.processes import fork_context

pytestmark = pytest.mark.slow

NUM_IMAGES = 4 * 12


@pytest.fixture(autouse=True, scope="module")
def one_fork_server() -> None:
    """The scan's workers come from the server that the tests share, whichever of them starts it."""
    fork_context()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    folder = write_image_folders(root, num_classes=4, train_per_class=12, val_per_class=1) / "train"
    damaged = folder / "class_02" / "5.jpg"
    damaged.write_bytes(damaged.read_bytes()[:100])
    return folder


def plan(images: Path, folder: Path) -> list[Chunk]:
    tree = read_tree("train", images, flat_allowed=False)
    rows = [(label, f"{name}/{file}") for label, (name, files) in enumerate(tree.folders.items()) for file in files]
    source = Source("folders", images)
    layout = Layout("train", "x", (), source, [name for _, name in rows], [label for label, _ in rows], [])
    return plan_chunks(layout, folder)


def quiet(done: int, total: int, rate: float) -> None:
    pass


def no_note(text: str) -> None:
    pytest.fail(f"unexpected note: {text}")


def run_scan(images: Path, folder: Path, note: Callable[[str], None] = no_note) -> dict[str, Inspection]:
    chunks = plan(images, folder)
    scan(chunks, folder, StopFlag(), quiet, note, num_workers=1)
    return results(chunks)


def results(chunks: list[Chunk]) -> dict[str, Inspection]:
    return {
        name: inspection
        for chunk, inspections in read_inspections(chunks)
        for name, inspection in zip(chunk.names, inspections, strict=True)
    }


def written(folder: Path) -> dict[str, int]:
    """When each file of the results was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are inspected, in this process."""
    names: list[str] = []

    def inspect(path: str) -> Inspection:
        names.append("/".join(Path(path).parts[-2:]))
        return inspect_file(path)

    def work_here(work: Callable[[Chunk], None], chunks: list[Chunk], *rest: Any) -> Iterator[Chunk]:
        for chunk in chunks:
            work(chunk)
            yield chunk

    monkeypatch.setattr(scanning, "inspect_file", inspect)
    monkeypatch.setattr(scanning, "run_in_processes", work_here)
    monkeypatch.setattr(scanning, "_CHUNK_IMAGES", 3)
    return names


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two classes of six images, each two chunks."""
    return write_image_folders(tmp_path / "few", num_classes=2, train_per_class=6, val_per_class=1) / "train"


@pytest.mark.parametrize(("num_workers", "chunk_images"), [(1, 512), (2, 5), (3, 12)])
def test_results_are_each_images_own_whatever_the_workers_and_chunks(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int, chunk_images: int
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_IMAGES", chunk_images)
    folder, told = tmp_path / "scan", list[tuple[int, int]]()
    chunks = plan(images, folder)
    scan(chunks, folder, StopFlag(), lambda done, total, rate: told.append((done, total)), no_note, num_workers)
    expected = {f"{path.parent.name}/{path.name}": inspect_file(str(path)) for path in sorted(images.rglob("*.jpg"))}
    assert results(chunks) == expected
    assert len(expected) == NUM_IMAGES
    assert [path for path, inspection in expected.items() if inspection.finding] == ["class_02/5.jpg"]
    assert told[-1] == (NUM_IMAGES, NUM_IMAGES)


def test_chunks_are_made_again_whose_names_sizes_or_bad_images_changed(
    few: Path, tmp_path: Path, read: list[str]
) -> None:
    (few / "class_01" / "4.jpg").write_bytes(b"not yet an image")
    run_scan(few, tmp_path / "scan")
    assert len(read) == 12
    read.clear()
    run_scan(few, tmp_path / "scan")
    assert read == ["class_01/4.jpg"]
    read.clear()
    (few / "class_00" / "1.jpg").write_bytes((few / "class_00" / "0.jpg").read_bytes())
    (few / "class_01" / "6.jpg").write_bytes((few / "class_01" / "0.jpg").read_bytes())
    found = run_scan(few, tmp_path / "scan")
    assert read == ["class_00/0.jpg", "class_00/1.jpg", "class_00/2.jpg", "class_01/4.jpg", "class_01/6.jpg"]
    assert found == {name: inspect_file(str(few / name)) for name in found}
    assert len(found) == 13


def test_results_hold_for_images_that_have_moved(few: Path, tmp_path: Path, read: list[str]) -> None:
    before = run_scan(few, tmp_path / "scan")
    read.clear()
    moved = shutil.copytree(few, tmp_path / "elsewhere")
    shutil.rmtree(few)
    assert run_scan(moved, tmp_path / "scan") == before
    assert read == []
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "scan").iterdir())


def test_an_image_replaced_by_another_of_its_size_makes_all_chunks_again_with_one_line(
    few: Path, tmp_path: Path, read: list[str]
) -> None:
    run_scan(few, tmp_path / "scan")
    read.clear()
    image = few / "class_01" / "2.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-2] + b"\xff\xd9"[::-1])
    notes: list[str] = []
    found = run_scan(few, tmp_path / "scan", notes.append)
    assert len(read) == 12
    assert found["class_01/2.jpg"] == inspect_file(str(image))
    assert notes == [f"{image}: not the image that an earlier attempt checked; all images are checked again"]


@pytest.mark.parametrize("suffix", [".json", ".seal.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_chunk_is_made_again_with_one_line(
    few: Path, tmp_path: Path, read: list[str], suffix: str, damage: str
) -> None:
    """Before, a flipped bit ended every further attempt with a traceback."""
    before = run_scan(few, tmp_path / "scan")
    read.clear()
    (chunk, *_) = plan(few, tmp_path / "scan")
    victim = Path(chunk.results).with_suffix(suffix)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    notes: list[str] = []
    assert run_scan(few, tmp_path / "scan", notes.append) == before
    assert read == list(chunk.names)
    if (suffix, damage) == (".seal.json", "remove"):
        assert notes == []  # as after a kill between the two
    else:
        (note,) = notes
        assert note.startswith("damaged results of an earlier attempt, 1 in all, are made again (")
        assert str(victim) in note


def test_asked_to_stop_it_keeps_what_is_done_and_goes_on_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_IMAGES", 2)
    folder = tmp_path / "scan"
    chunks = plan(images, folder)
    stop = StopFlag()

    def ask_to_stop(done: int, total: int, rate: float) -> None:
        stop.reason = "SIGTERM"

    with pytest.raises(StopRequested, match=r"stopped by SIGTERM after \d+ of 48 images were checked"):
        scan(chunks, folder, stop, ask_to_stop, no_note, num_workers=1)
    kept = written(folder)
    assert 0 < len(kept) < 2 * len(chunks)
    scan(chunks, folder, StopFlag(), quiet, no_note, num_workers=1)
    assert len(written(folder)) == 2 * len(chunks)
    # The chunk with the damaged image is looked at again, in case it was repaired; its result is the same.
    assert {name: written(folder)[name] for name in kept} == kept


def scan_telling_workers(images: Path, folder: Path, workers: Path) -> None:
    def tell(done: int, total: int, rate: float) -> None:
        write_bytes(workers, " ".join(str(process.pid) for process in multiprocessing.active_children()).encode())

    scanning._CHUNK_IMAGES = 1
    scan(plan(images, folder), folder, StopFlag(), tell, no_note, num_workers=2)


def test_workers_end_with_a_killed_scan(images: Path, tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    process = fork_context().Process(target=scan_telling_workers, args=(images, tmp_path / "scan", workers))
    process.start()
    wait_until(workers.exists)
    process.kill()
    process.join()
    pids = [int(pid) for pid in workers.read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass within a minute"
        time.sleep(0.005)


def test_death_of_a_worker_is_an_error_that_says_where(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_IMAGES", 1)
    chunks = plan(images, tmp_path / "scan")

    def kill_workers(done: int, total: int, rate: float) -> None:
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"was killed, by the system for lack of memory(.|\n)*class_\d\d/\d+\.jpg"):
        scan(chunks, tmp_path / "scan", StopFlag(), kill_workers, no_note, num_workers=2)
    assert written(tmp_path / "scan")
