from __future__ import annotations

from PIL import Image

from tests.pictures import PICTURES, lines_on_screen


def test_the_pictures_are_under_a_megabyte_together() -> None:
    files = sorted(PICTURES.glob("*.png"))
    assert {f"{of}{seen}.png" for of in ("report", "terminal") for seen in ("", "_dark", "_narrow")} == {
        file.name for file in files
    }
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        with Image.open(file) as image:
            image.verify()


def test_a_bar_that_is_drawn_again_is_one_line_of_the_screen() -> None:
    written = "a\r\n\x1b[1mbar 1\x1b[0m\r\x1b[2K\x1b[1mbar 2\x1b[0m\r\n\x1b[1A\x1b[2Kdone\r\n"
    assert lines_on_screen(written) == ["a", "done", "", ""]
