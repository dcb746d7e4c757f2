"""`python -m tests.reliability > docs/reliability.md`: the faults that are survived, by the names of their tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "reliability.md"
_HEAD = """# What is survived

Faults that tests bring about, in the words of their names; the heading names the folder of the tests. Most are
real: processes are killed, disks filled, bits flipped, quotas set, and jobs run on a SLURM of their own. Made by
`python -m tests.reliability` from the tests themselves, and compared with them by one.
"""
_FAULT = re.compile(
    r"_(kill|kills|killed|crash|crashes|dies|dead|death|sigterm|signal|ctrl_c|interrupted|vanished|deleted|ends_with_the_one"
    r"|damage|damaged|torn|flipped|zeroed|cut_short|emptied|was_shortened|replaced|moved|tampered|edited|second_(job|process)"
    r"|another_process|never_gets_further|full_disk|of_the_disk|without_room|read_only|leftovers|shared_memory|temporary_folder|quotas?"
    r"|limit_inside|hangs|cannot_be_reached|without_the_client|client_that_fails|working_directory|no_numbers"
    r"|single_images|both_forms|bomb|never_run|not_run|refused_unread|refused_at_once|steer|leaves_nothing)(_|$)"
)
_LEFT_OUT = ("tests/bench", "tests/engines", "tests/gpu", "tests/models", "tests/reporting")
"""Folders whose tests are about results."""


def fault_tests() -> Iterator[tuple[str, Path, str]]:
    """Folder, file and name of each test of a fault, in order."""
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        folder = str(path.parent.relative_to(REPOSITORY))
        if folder.startswith(_LEFT_OUT):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and _FAULT.search(node.name):
                yield folder, path, node.name


def page() -> str:
    """The whole document."""
    lines, last = [_HEAD], ""
    for folder, path, name in fault_tests():
        if folder != last:
            lines.append(f"\n## {folder.removeprefix('tests/')}\n\n")
            last = folder
        words = re.sub(r" s\b", "'s", name.removeprefix("test_").replace("_", " "))
        lines.append(f"- {words} ([{path.stem}](../{path.relative_to(REPOSITORY)}))\n")
    return "".join(lines)


if __name__ == "__main__":
    print(page(), end="")
