from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.index import ImageClass, ImageIndex, make_index
from pipeline.evaluation.network_classes import map_classes, mapped_index
from pipeline.ground.errors import UserError

WNIDS = [synset.wnid for synset in read_ilsvrc2012().synsets]


def index_of(folders: list[str], split: str = "val") -> ImageIndex:
    """One image a class."""
    classes = [ImageClass(label, folder, folder, None) for label, folder in enumerate(folders)]
    zeros = np.zeros(len(folders))
    names = [f"{folder}/x.jpg" for folder in folders]
    return make_index(
        split, "folder", classes, names, range(len(folders)), zeros, zeros, zeros, np.zeros((len(folders), 32)), zeros
    )


def columns(folders: list[str], num_classes: int = 1000, file: Path | None = None, **metadata: str) -> list[int] | None:
    mapping = map_classes("val", folders, num_classes, metadata, file, "w.safetensors")
    return None if mapping is None else list(mapping.columns)


def test_folders_named_by_wordnet_ids_are_found_among_the_contest_s_classes():
    some = [WNIDS[7], WNIDS[0], WNIDS[999]]
    assert columns(some) == [7, 0, 999]
    assert columns(WNIDS) is None


def test_numbers_are_compared_as_numbers():
    folders = sorted(map(str, range(1000)))
    assert folders[2] == "10"
    assert columns(folders) == [int(folder) for folder in folders]


def test_a_weight_file_s_own_list_comes_first():
    assert columns(["cat", "ant"], 3, classes=json.dumps(["ant", "bee", "cat"])) == [2, 0]
    assert columns(["ant", "bee"], 2, classes=json.dumps(["ant", "bee"])) is None


def test_without_a_list_as_many_folders_as_classes_are_in_their_sorted_order():
    assert columns(["a", "b", "c"], 3) is None


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_a_file_says_what_names_do_not(tmp_path, suffix):
    given = {"tench": WNIDS[0], "shark": "2"}
    text = json.dumps(given) if suffix == "json" else "folder,class\n" + "".join(f"{k},{v}\n" for k, v in given.items())
    file = tmp_path / f"classes.{suffix}"
    file.write_text(text)
    assert columns(["shark", "tench"], file=file) == [2, 0]


def test_what_cannot_be_mapped_is_named_with_both_sides():
    with pytest.raises(UserError) as raised:
        columns(["shark", "tench"])
    assert str(raised.value) == (
        "evaluate.classes: the val images are in 2 class folders, shark, tench; the network of w.safetensors has 1,000 "
        "classes and calls them n01440764, n01443537, n01484850 and so on. Say which is which in a file: "
        "evaluate.classes=classes.csv, with a line `folder,class` for each folder, where the class is a name of the "
        "network's or its number from 0 to 999"
    )
    with pytest.raises(
        UserError, match=r"are in 2 class folders, a, b; the network of w\.safetensors has 3 classes and"
    ):
        columns(["a", "b"], 3)


def test_a_file_that_says_too_little_or_nonsense_is_named(tmp_path):
    file = tmp_path / "classes.csv"
    file.write_text("shark,1000\n")
    with pytest.raises(UserError) as raised:
        columns(["shark", "tench"], file=file)
    assert "shark: the network has no class 1000 (it has numbers 0 to 999, n01440764" in str(raised.value)
    assert "no line for the class folder tench" in str(raised.value)
    file.write_text("{")
    with pytest.raises(UserError, match="must be a JSON object"):
        columns(["shark"], file=file)


def test_an_index_is_seen_as_the_network_sees_it(tmp_path):
    index = index_of([WNIDS[5], WNIDS[3]])
    assert mapped_index(index, tmp_path) is index
    mapping = map_classes("val", [WNIDS[5], WNIDS[3]], 1000, {}, None, "w")
    mapping.write(tmp_path)
    seen = mapped_index(index, tmp_path)
    assert seen.labels.tolist() == [5, 3]
    assert [seen.classes[label].folder for label in seen.labels.tolist()] == [WNIDS[5], WNIDS[3]]
    assert (len(seen.classes), seen.digest) == (1000, index.digest)


def test_unlabelled_images_have_the_network_s_classes_and_no_label(tmp_path):
    none = np.zeros(2)
    index = make_index("test", "folder", [], ["a.jpg", "b.jpg"], [-1, -1], none, none, none, np.zeros((2, 32)), none)
    mapping = map_classes("test", [], 3, {"classes": '["ant", "bee", "cat"]'}, None, "w")
    seen = mapping.applied(index)
    assert [one.folder for one in seen.classes] == ["ant", "bee", "cat"]
    assert seen.labels.tolist() == [-1, -1]
