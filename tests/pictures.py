"""`make pictures`: the demo's report and terminal as images, in docs/pictures. Takes two minutes and Chromium."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

from tests.browser import DARK, find_chromium, screenshot
from tests.conftest import REPOSITORY

PICTURES = REPOSITORY / "docs" / "pictures"
_WIDE, _NARROW, _ROWS = 112, 56, 32
"""Sizes of the terminals in characters."""
_SCREEN = """<!DOCTYPE html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 14px 18px; color: {foreground}; background: {background}; font: 14px/20px monospace; }}
pre {{ margin: 0; font: inherit; }}
</style><pre>{code}</pre>"""
_CONTROL = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[\?\d+[hl]|\r|\n")
_COLORS = 128


def typescript(command: list[str], columns: int) -> Iterator[str]:
    """Run a command in a terminal of that width, and yield all that it has written after each piece."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
        os.environ["TERM"] = "xterm-256color"
        del os.environ["OMP_NUM_THREADS"]  # which the tests set
        os.execv(command[0], command)
    written = b""
    with os.fdopen(terminal, "rb", 0) as pieces:
        while True:
            try:
                piece = pieces.read(1 << 16)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            written += piece
            yield written.decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    assert status == 0, written.decode(errors="replace")


def lines_on_screen(written: str) -> list[str]:
    """Return the lines that a terminal shows, with their colours; progress bars are redrawn in place."""
    lines, row, place = [""], 0, 0
    for control in _CONTROL.finditer(written + "\n"):
        lines[row] += written[place : control.start()]
        place = control.end()
        count, kind = control[1], control[2]
        if control[0] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif kind == "A":
            row -= int(count or 1)
        elif kind == "m":
            lines[row] += control[0]
        elif kind == "K" or (control[0] == "\r" and written[place : place + 1] != "\n"):
            lines[row] = ""
    return lines


def main() -> None:
    """Run the demo on a wide and on a narrow terminal, and write all pictures."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("pictures: chromium is not installed (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = [sys.executable, "-m", "launch", "run", str(REPOSITORY / "configs/demo.yaml"), "--run"]
        *_, wide = typescript([*demo, str(folder / "demo")], _WIDE)
        narrow = _while_training(typescript([*demo, str(folder / "narrow")], _NARROW))
        (report,) = (folder / "demo").glob("report-*/report.html")
        draw(chromium, wide.replace(str(folder), "runs"), narrow, report, folder)


def draw(chromium: str, wide: str, narrow: str, report: Path, folder: Path) -> None:
    """Write the pictures of two terminals and of a report; files of the browser go into `folder`."""
    PICTURES.mkdir(exist_ok=True)
    for name, written, columns, theme in (
        ("terminal", wide, _WIDE, DEFAULT_TERMINAL_THEME),
        ("terminal_dark", wide, _WIDE, MONOKAI),
        ("terminal_narrow", narrow, _NARROW, MONOKAI),
    ):
        screen = folder / "screen.html"
        screen.write_text(_page(lines_on_screen(written.rstrip()), columns, theme))
        _write(name, screenshot(chromium, screen, folder, round(8.43 * columns) + 36, 20 * _ROWS + 28))
    _write("report", screenshot(chromium, report, folder, 1280, 1600))
    _write("report_dark", screenshot(chromium, report, folder, 1280, 1600, DARK, section="calibration"))
    _write("report_narrow", screenshot(chromium, report, folder, 400, 1600))


def _while_training(pieces: Iterator[str]) -> str:
    """Return all that was written when half of the training was done."""
    half = ""
    for written in pieces:
        if "epoch 5" not in half:
            half = written
    return half


def _page(lines: list[str], columns: int, theme: TerminalTheme) -> str:
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    texts = [text for line in lines for text in AnsiDecoder().decode(line) or [Text()]]
    rows = [row for text in texts for row in text.divide(range(columns, text.cell_len, columns))]
    for row in rows[-_ROWS:]:
        console.print(row, soft_wrap=True)
    return console.export_html(theme=theme, code_format=_SCREEN)


def _write(name: str, image: Image.Image) -> None:
    image.quantize(_COLORS, Image.Quantize.MAXCOVERAGE).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
