from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.parts import Part, PartFolder
from pipeline.store.seal import BrokenSeal

KEY, OTHER = "0123456789", "9876543210"


def make_folder(path: Path, key: str = KEY) -> PartFolder:
    return PartFolder(path / "parts", key, num_images=10, num_classes=3, images_per_part=4)


def fill(folder: PartFolder, numbers: list[int]) -> None:
    for number in numbers:
        positions = folder.positions(number)
        folder.write(number, Part(np.outer(positions, [1, 2, 3]).astype(np.float16), seconds=0.5))


def test_parts_cover_the_index_once_and_the_last_is_smaller(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert [folder.positions(number).tolist() for number in range(len(folder))] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_a_part_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert folder.survey() == ([0, 1, 2], [])
    fill(folder, [2])
    part = folder.read(2)
    assert part.seconds == 0.5
    np.testing.assert_array_equal(part.scores, np.array([[8, 16, 24], [9, 18, 27]], dtype=np.float16))
    assert folder.survey() == ([0, 1], [])


@pytest.mark.parametrize("name", ["00000002.npy", "00000002.seal.json"])
def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path)
    folder.survey()
    fill(folder, [2])
    path = tmp_path / "parts" / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            # A seal's last byte is the end of its line, which says nothing.
            if damaged.strip() != whole.strip():
                path.write_bytes(damaged)
                with pytest.raises(BrokenSeal, match=r"00000002\."):
                    folder.read(2)


def test_survey_names_the_broken_part_and_wants_it_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.survey()
    fill(folder, [0, 1, 2])
    path = tmp_path / "parts" / "00000001.npy"
    path.write_bytes(b"")
    assert folder.survey() == ([1], [f"{path}: 0 bytes, 152 when it was written"])


def test_a_part_without_its_seal_was_never_finished(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.survey()
    fill(folder, [0, 1, 2])
    (tmp_path / "parts" / "00000001.seal.json").unlink()
    assert folder.survey() == ([1], [])


def test_parts_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    mine = make_folder(tmp_path)
    mine.survey()
    fill(make_folder(tmp_path, OTHER), [0])
    fill(mine, [1])
    pending, problems = mine.survey()
    assert pending == [0, 2]
    assert problems == [f"{tmp_path / 'parts' / '00000000.npy'}: made from other weights, images or settings"]


def test_parts_of_another_size_are_not_taken(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.survey()
    larger = PartFolder(tmp_path / "parts", KEY, num_images=10, num_classes=3, images_per_part=5)
    larger.write(0, Part(np.zeros((5, 3), np.float16), seconds=0.5))
    problem = f"{tmp_path / 'parts' / '00000000.npy'}: must have the shape (4, 3) (it has (5, 3))"
    assert folder.survey() == ([0, 1, 2], [problem])


def test_a_part_under_another_parts_name_is_not_taken(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.survey()
    fill(folder, [0])
    for suffix in (".npy", ".seal.json"):
        (tmp_path / "parts" / f"00000000{suffix}").rename(tmp_path / "parts" / f"00000001{suffix}")
    assert folder.survey()[0] == [0, 1, 2]


def test_parts_made_from_the_same_are_taken_over_and_no_others(tmp_path: Path) -> None:
    earlier = make_folder(tmp_path / "earlier")
    (tmp_path / "earlier").mkdir()
    earlier.survey()
    fill(earlier, [0, 1])
    (tmp_path / "earlier" / "parts" / "00000001.npy").write_bytes(b"cut")
    (tmp_path / "earlier" / "parts" / "00000002.seal.json").mkdir()  # cannot be read
    foreign = make_folder(tmp_path / "foreign", OTHER)
    (tmp_path / "foreign").mkdir()
    foreign.survey()
    fill(foreign, [2])
    folder = make_folder(tmp_path)
    others = [tmp_path / "none", tmp_path / "foreign" / "parts", tmp_path / "earlier" / "parts"]
    assert folder.survey(others) == ([1, 2], [])
    np.testing.assert_array_equal(folder.read(0).scores, earlier.read(0).scores)


def test_nobody_asks_for_a_part_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("earlier", "now"):
        (tmp_path / name).mkdir()
    earlier, folder = make_folder(tmp_path / "earlier"), make_folder(tmp_path / "now")
    earlier.survey()
    fill(earlier, [1])
    asked = set()
    for method in ("exists", "is_file", "stat", "open", "read_bytes"):
        plain = getattr(Path, method)

        def noting(path: Path, *rest: object, plain: Any = plain, **named: object) -> Any:
            asked.add(path)
            return plain(path, *rest, **named)

        monkeypatch.setattr(Path, method, noting)
    assert folder.survey([tmp_path / "earlier" / "parts"]) == ([0, 2], [])
    assert {path.name for path in asked if path.match("now/parts/0*")} == {"00000001.npy", "00000001.seal.json"}
