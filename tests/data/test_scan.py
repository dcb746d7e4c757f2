from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.data import scan as scanning
from pipeline.data.inspection import Inspection, inspect_file
from pipeline.data.scan import Chunk, inspect_chunk, plan_chunks, read_inspections, scan
from pipeline.data.tree import read_tree
from pipeline.ground.errors import StopRequested
from pipeline.ground.stop import StopFlag
from pipeline.store.file import write_bytes
from tests.images import write_image_folders
from tests.processes import fork_context

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


def plan(images: Path, parts: Path) -> list[Chunk]:
    return plan_chunks(images, read_tree("train", images, flat_allowed=False).folders, parts)


def quiet(done: int, total: int, rate: float) -> None:
    pass


def results(chunks: list[Chunk]) -> dict[str, Inspection]:
    return {
        f"{chunk.folder}/{name}": inspection
        for chunk, inspections in read_inspections(chunks)
        for name, inspection in inspections.items()
    }


def part_files(parts: Path) -> Mapping[str, bytes]:
    return {part.name: part.read_bytes() for part in parts.iterdir()}


@pytest.mark.parametrize(("num_workers", "chunk_images"), [(1, 512), (2, 5), (3, 12)])
def test_results_are_each_files_own_whatever_the_workers_and_chunks(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int, chunk_images: int
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_IMAGES", chunk_images)
    chunks = plan(images, tmp_path / "parts")
    told = []
    scan(chunks, tmp_path / "parts", StopFlag(), lambda done, total, rate: told.append((done, total)), num_workers)
    expected = {f"{path.parent.name}/{path.name}": inspect_file(str(path)) for path in sorted(images.rglob("*.jpg"))}
    assert results(chunks) == expected
    assert len(expected) == NUM_IMAGES
    assert [path for path, inspection in expected.items() if inspection.finding] == ["class_02/5.jpg"]
    assert told[-1] == (NUM_IMAGES, NUM_IMAGES)


def test_only_changed_new_and_bad_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_folders(tmp_path, num_classes=1, train_per_class=6, val_per_class=1) / "train" / "class_00"
    (folder / "2.jpg").write_bytes(b"not yet an image")
    parts = tmp_path / "parts"
    parts.mkdir()
    read: list[str] = []

    def reading(path: str) -> Inspection:
        read.append(Path(path).name)
        return inspect_file(path)

    monkeypatch.setattr(scanning, "inspect_file", reading)
    (chunk,) = plan(folder.parent, parts)
    inspect_chunk(chunk)
    assert read == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]

    read.clear()
    inspect_chunk(chunk)
    assert read == ["2.jpg"]

    read.clear()
    (folder / "4.jpg").write_bytes((folder / "3.jpg").read_bytes())
    (folder / "1.jpg").unlink()
    (folder / "6.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (changed,) = plan(folder.parent, parts)
    inspect_chunk(changed)
    assert read == ["2.jpg", "4.jpg", "6.jpg"]
    assert list(results([changed])) == [f"class_00/{number}.jpg" for number in (0, 2, 3, 4, 5, 6)]


def test_asked_to_stop_it_keeps_what_is_done_and_goes_on_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_IMAGES", 2)
    parts = tmp_path / "parts"
    chunks = plan(images, parts)
    stop = StopFlag()

    def ask_to_stop(done: int, total: int, rate: float) -> None:
        stop.reason = "SIGTERM"

    with pytest.raises(StopRequested, match=r"stopped by SIGTERM after \d+ of 48 images were checked"):
        scan(chunks, parts, stop, ask_to_stop, num_workers=1)
    kept = part_files(parts)
    assert 0 < len(kept) < len(chunks)
    modified = {name: (parts / name).stat().st_mtime_ns for name in kept}
    scan(chunks, parts, StopFlag(), quiet, num_workers=1)
    assert len(part_files(parts)) == len(chunks)
    unchanged = [name for name in kept if (parts / name).stat().st_mtime_ns == modified[name]]
    # The chunk with the damaged image is looked at again, in case it was repaired; its result is the same.
    assert unchanged == list(kept)


def scan_telling_workers(images: Path, parts: Path, workers: Path) -> None:
    def tell(done: int, total: int, rate: float) -> None:
        write_bytes(workers, " ".join(str(process.pid) for process in multiprocessing.active_children()).encode())

    scanning._CHUNK_IMAGES = 1
    scan(plan(images, parts), parts, StopFlag(), tell, num_workers=2)


def test_workers_end_with_a_killed_scan(images: Path, tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    process = fork_context().Process(target=scan_telling_workers, args=(images, tmp_path / "parts", workers))
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
    chunks = plan(images, tmp_path / "parts")

    def kill_workers(done: int, total: int, rate: float) -> None:
        for process in multiprocessing.active_children():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"was killed, by the system for lack of memory(.|\n)*class_\d\d: \d+\.jpg"):
        scan(chunks, tmp_path / "parts", StopFlag(), kill_workers, num_workers=2)
    assert part_files(tmp_path / "parts")
