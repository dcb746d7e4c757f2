"""Say what can stand in a recipe."""

from __future__ import annotations

import shutil
import textwrap

from launch.console import say
from pipeline.config.documentation import find_entries, key_entries, key_page
from pipeline.config.synonyms import answer_for
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.ground.interpreter import command_line

_MOST_COLUMNS = 120


def print_keys(word: str | None, *, as_page: bool = False) -> int:
    """Print the keys that have `word` in their name or meaning, or all; as docs/keys.md if they are to be a page.

    Raises UserError if there is none.
    """
    if as_page:
        print(key_page(), end="")
        return EXIT_DONE
    answer = None if word is None else answer_for(word)
    if answer is not None:
        say(f"{word}: {answer}\n")
    entries = key_entries() if word is None else find_entries(word)
    if not entries and answer is None:
        raise UserError(f"no key has '{word}' in its name or meaning; all keys: {command_line('keys')}")
    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 0)).columns)
    for entry in entries:
        default = entry.default if entry.default == "must be given" else f"default {entry.default}"
        say(f"{entry.name}: {entry.type}; {default}; {entry.effect}")
        say(textwrap.fill(entry.meaning, width, initial_indent="    ", subsequent_indent="    "))
    return EXIT_DONE
