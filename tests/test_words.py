"""One word for a thing, and the field's own: private words that the project once used do not come back."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SUFFIXES = {".py", ".md", ".yaml", ".toml", ".sbatch", ".sh", ".html", ".css", ".cff"}
FOLDERS = (".ci", "configs", "docs", "launch", "pipeline", "slurm", "stages", "tests")
NOT_OURS = {"CHANGELOG.md", "tests/test_words.py"}
"""The changelog tells what was renamed."""

CROP = "crop"
WORDS: tuple[tuple[str, str], ...] = (
    (r"(life|lives)", "attempt (of a process); a stage runs"),
    (r"fruitless", "restarts without progress"),
    (r"standings?", "job status"),
    (r"(crop|image|square|random|mirrored) windows?", CROP),
    (r"(crop|image|mirrored|one|two|ten|\d+) views?|views per image|num views", CROP),
    (r"cut px|cut crops?|cut (from|out of) (it|an|the)|cutting|an image is cut", CROP),
    (r"(crops?|squares?|views?|it) (is|are|was|were) cut(?! off| short| in)", CROP),
    (r"(deal|deals|dealt|dealing|shared?|shares|sharing) out", "broadcast, scatter, or divide among"),
    (r"share\((?!s\b)|def share", "broadcast"),
    (r"rehears\w*", "warm up (an engine), simulate (a plan)"),
    (r"rivals?", "margin"),
    (r"trade ?offs?", "cost and accuracy"),
    (r"(?<!garbage )collector", "garbage collection; gc pause"),
    (r"(is|are|was|were|class|def|not|next|what) due(?! to)|due after", "cadence"),
    (r"loss watch\w*|watch\w* the loss", "NaN guard"),
    (r"origin (step|checkpoint|run)|(check|checkpoint|read|training) origin", "initial checkpoint"),
    (r"(?<!itertools\.)(?<!import )chains?(?!\()", "job graph"),
    (r"(profile|recipe|check) fit|fits? of (the|a) profile|launch\.fit", "profile check"),
    (
        r"(write|writes|writing|written|save|saves|saving|saved|copied) aside|aside writer",
        "in the background; background writer",
    ),
    (r"guess\w*", "prediction"),
)
"""Regular expressions over lower-case text whose identifiers are split into words, and what to write instead."""

OF_0_1 = re.compile(r'lives\.jsonl|"views": \("named|unknown key \(named|views: \[\{resize_px')
"""What version 0.1 wrote is known by its old names."""


def words_of(text: str) -> str:
    """Split `snake_case` and `CamelCase` into lower-case words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_-]", " ", text).lower()


@functools.cache
def lines() -> tuple[tuple[str, str], ...]:
    """Every line that is read, in words, after its place: code, tests, recipes, profiles, scripts and docs."""
    found = [*REPOSITORY.glob("*"), *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*"))]
    every = []
    for path in sorted(found):
        name = str(path.relative_to(REPOSITORY))
        if name in NOT_OURS or not path.is_file() or not (path.suffix in SUFFIXES or path.name in ("Makefile", "run")):
            continue
        written = [name, *path.read_text().splitlines()]
        every += [
            (f"{name}:{number}", words_of(line)) for number, line in enumerate(written) if not OF_0_1.search(line)
        ]
    return tuple(every)


@pytest.mark.parametrize(("old", "new"), WORDS, ids=[new for _, new in WORDS])
def test_the_fields_own_words_are_used(old: str, new: str) -> None:
    pattern = re.compile(rf"(?<![a-z])({old})(?![a-z])")
    matches = ((place, pattern.search(line)) for place, line in lines())
    found = [f"{place}: {match[0]!r}: write {new!r}" for place, match in matches if match]
    assert not found, "\n".join(found)


VAGUE = (
    r"\b(None|True|False|[A-Z]\w*(Error|Requested)|BrokenSeal|NotFinite) where\b",
    r"(^|\. )(UserError|[A-Z]\w*(Busy|Requested))\b",
    r"\b(is|are) told\b",
    r"\bwhoever\b",
    r"\bfor want of\b",
    r"\bNever imports\b",
)
"""Turns of phrase that PyTorch's docstrings do not have: they say "None if", "Raises UserError if", "calls `note`"."""
NO_VERB = r"(What|Where|Whether|How|The|An?|Every|All|Of|By|As|With) "


def docstrings(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is a function's, of each docstring of a file; attributes' too."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for number, statement in enumerate(body if isinstance(body, list) else []):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                is_function = isinstance(node, ast.FunctionDef) and number == 0 and not has_noun(node)
                yield statement.lineno, " ".join(str(statement.value.value).split()), is_function


def has_noun(function: ast.FunctionDef) -> bool:
    """A property is named by a noun, and so may its docstring be."""
    return any(ast.unparse(decorator).endswith("property") for decorator in function.decorator_list)


@pytest.mark.parametrize("package", ["launch", "stages", "pipeline"])
def test_docstrings_say_what_is_done_returned_and_raised(package: str) -> None:
    found = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for line, text, is_function in docstrings(path):
            patterns = [*VAGUE, rf"^{NO_VERB}"] if is_function else VAGUE
            if any(re.search(pattern, text) for pattern in patterns):
                found.append(f"{path.relative_to(REPOSITORY)}:{line}: {text[:80]}")
    assert not found, "\n".join(found)
