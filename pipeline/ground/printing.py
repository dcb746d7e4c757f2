"""Lines for people: nothing in them controls the terminal, whatever file it was quoted from."""

from __future__ import annotations

import sys
from typing import TextIO


def printable(text: str, encoding: str) -> str:
    """Escape everything in `text` that could control a terminal or that `encoding` cannot represent; newlines stay."""
    escaped = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print a line, on standard output if `stream` is not given, and flush it."""
    stream = sys.stdout if stream is None else stream
    print(printable(text, stream.encoding or "utf-8"), file=stream, flush=True)
