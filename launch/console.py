"""Output of launch: lines that survive a closed pipe, and tables that stay whole in one."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from pipeline.ground.errors import UserError
from pipeline.ground.printing import print_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_PIPE_WIDTH = 1000


def say(text: str) -> None:
    """Print a line at once. Running stages must not end because the pipe or terminal was closed."""
    with contextlib.suppress(OSError):
        print_line(text)


def complain(text: str) -> None:
    """Print a line like `say`, on stderr."""
    with contextlib.suppress(OSError):
        print_line(text, sys.stderr)


def table(*columns: str, numbers: Collection[int] = ()) -> Table:
    """Return an empty table, with the columns at the places `numbers` to the right; text too wide for a terminal is
    folded, never truncated."""
    from rich.table import Table

    result = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        result.add_column(column, overflow="fold", justify="right" if place in numbers else "left")
    return result


def show(renderable: RenderableType) -> None:
    """Print a table: as wide as the terminal, or as wide as it needs to be without one."""
    from rich.console import Console

    text = io.StringIO()  # rich fails half-way where standard output does
    console = Console(file=text, force_terminal=sys.stdout.isatty(), markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(renderable)
    # Rich pads lines with blanks up to the width of their columns; logs do without.
    try:
        print("\n".join(line.rstrip() for line in text.getvalue().splitlines()), flush=True)
    except BrokenPipeError:
        pass
    except OSError as error:
        raise UserError(f"standard output: {error.strerror}") from error


def byte_size(count: float) -> str:
    """Format bytes as `7.2 kB`, `921.7 MB` or `2.77 GB`."""
    if count >= 1e9:
        return f"{count / 1e9:,.2f} GB"
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
