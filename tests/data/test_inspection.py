"""What is good, what is refused and why; and that every decoder reads what is called good alike."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.inspection import MAX_PIXELS, inspect_content, inspect_file
from tests.data import odd_images

ACCEPTED = odd_images.accepted()
REFUSED = odd_images.refused()


@pytest.mark.parametrize("name", ACCEPTED)
def test_good_file_is_accepted_with_its_size_checksum_and_flags(name: str, tmp_path: Path) -> None:
    content, flags = ACCEPTED[name]
    (tmp_path / name).write_bytes(content)
    inspection = inspect_file(str(tmp_path / name))
    with Image.open(tmp_path / name) as image:
        assert (inspection.width, inspection.height) == image.size
    assert inspection.finding == ""
    assert inspection.num_bytes == len(content)
    assert inspection.sha256 == hashlib.sha256(content).hexdigest()
    assert inspection.flags == flags


@pytest.mark.parametrize("name", REFUSED)
def test_bad_file_is_refused_with_its_reason(name: str) -> None:
    content, finding, detail = REFUSED[name]
    inspection = inspect_content(content)
    assert (inspection.finding, inspection.flags) == (finding, ())
    assert detail in inspection.detail


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["plain.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"])
def test_jpeg_cut_or_zeroed_anywhere_is_refused(name: str, share: float) -> None:
    content = ACCEPTED[name][0]
    begin = content[: int(len(content) * share)]
    assert inspect_content(begin).finding == "truncated"
    assert inspect_content(begin + bytes(len(content) - len(begin))).finding == "zero_tail"


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 5), (3, 7), (8, 8), (9, 13), (33, 4)])
def test_interlaced_png_of_any_size_is_whole(size: tuple[int, int]) -> None:
    content = odd_images.png_interlaced(odd_images.picture(*size))
    assert inspect_content(content).finding == ""


def test_size_limit_is_checked_before_the_pixels_are_decoded() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    small_file_of_8_gigapixels = odd_images.png_of_size(100_000, 80_000)
    tracemalloc.start()
    assert inspect_content(small_file_of_8_gigapixels).finding == "too_large"
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 2**24


def test_what_is_no_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "folder.JPEG").mkdir()
    os.mkfifo(tmp_path / "pipe.JPEG")
    (tmp_path / "dangling.JPEG").symlink_to(tmp_path / "nowhere")
    found = {name: inspect_file(str(tmp_path / f"{name}.JPEG")) for name in ("folder", "pipe", "dangling")}
    assert {name: (inspection.finding, inspection.detail) for name, inspection in found.items()} == {
        "folder": ("not_a_file", "a folder"),
        "pipe": ("not_a_file", "not a regular file"),
        "dangling": ("unreadable", "No such file or directory"),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(ACCEPTED["plain.jpg"][0])
    (tmp_path / "secret.jpg").chmod(0)
    assert inspect_file(str(tmp_path / "secret.jpg")).finding == "unreadable"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("accepted")
    for name, (content, _) in ACCEPTED.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in ACCEPTED]


@pytest.fixture(scope="module")
def oracle(files: list[str]) -> list[npt.NDArray[np.uint8]]:
    """Pillow's pixels, (H, W, 3)."""
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


@pytest.mark.parametrize("decoder", ["image", "image_slice"])
def test_dali_reads_what_is_accepted_like_pillow(
    files: list[str], oracle: list[npt.NDArray[np.uint8]], decoder: str
) -> None:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=len(files), num_threads=1, device_id=None)
    def decoding() -> object:
        encoded, _ = fn.readers.file(files=files)
        options = {"device": "cpu", "output_type": types.RGB, "adjust_orientation": False}
        if decoder == "image_slice":
            options |= {"rel_start": [0.0, 0.0], "rel_end": [1.0, 1.0]}
        return getattr(fn.decoders, decoder)(encoded, **options)

    pipeline = decoding()
    pipeline.build()
    (decoded,) = pipeline.run()
    for position, expected in enumerate(oracle):
        is_cmyk = "cmyk" in ACCEPTED[Path(files[position]).name][1]
        np.testing.assert_allclose(
            np.asarray(decoded.at(position)).astype(int), expected, rtol=0, atol=int(is_cmyk), err_msg=files[position]
        )


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_torchvision_reads_what_is_accepted_like_pillow(files: list[str], oracle: list[npt.NDArray[np.uint8]]) -> None:
    from torchvision.io import ImageReadMode, decode_image, read_file

    for file, expected in zip(files, oracle, strict=True):
        decoded = decode_image(read_file(file), mode=ImageReadMode.RGB)
        np.testing.assert_array_equal(decoded.permute(1, 2, 0).numpy(), expected, err_msg=file)
