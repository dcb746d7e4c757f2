from __future__ import annotations

from pipeline.ground.printing import printable


def test_nothing_in_a_text_can_steer_the_terminal() -> None:
    assert printable("a\x1b[31m\r\x07b\nc", "utf-8") == "a\\x1b[31m\\r\\x07b\nc"


def test_what_an_encoding_or_unicode_cannot_say_is_escaped() -> None:
    assert printable("± \udcff", "ascii") == "\\xb1 \\udcff"
    assert printable("± \udcff", "utf-8") == "± \\udcff"
