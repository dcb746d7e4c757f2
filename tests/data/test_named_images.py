"""Images named one by one, as `predict` takes them."""

from __future__ import annotations

import resource
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.encoded import EncodedImages
from pipeline.data.named_images import index_named_images
from pipeline.ground.errors import UserError
from tests.data.indexing import write_pictures


@pytest.fixture
def few_open_files() -> object:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_open_files")
def test_more_files_than_may_be_open_at_once_are_all_read(tmp_path: Path) -> None:
    (picture,) = write_pictures(tmp_path / "made", 1)
    content = picture.read_bytes()
    for number in range(150):
        (tmp_path / f"{number}.jpg").write_bytes(content)
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            tar.add(picture, "1.jpg")
            tar.add(picture, "2.jpg")
    index = index_named_images([tmp_path, *sorted(tmp_path.glob("*.tar"))], pytest.fail)
    assert index is not None
    assert len(index) == 1 + 150 + 300
    positions = np.arange(len(index))
    with EncodedImages(index, positions) as images:
        assert all(images.read(position) == content for position in positions.tolist())


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "made", 3)
    whole = tmp_path / "images.tar"
    with tarfile.open(whole, "w") as tar:
        for picture in pictures:
            tar.add(picture, picture.name)
    with tarfile.open(whole) as tar:
        second = tar.getmembers()[1]
    whole.write_bytes(whole.read_bytes()[: second.offset])
    with pytest.raises(UserError, match=rf"{whole}: not a whole, uncompressed tar file \(no end mark at byte "):
        index_named_images([whole], pytest.fail)
