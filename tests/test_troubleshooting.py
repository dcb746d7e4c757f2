"""Every message that docs/troubleshooting.md quotes is one of the program's, and its exit codes are all there are."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

import pytest

from pipeline.ground import errors
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
FEWEST_LETTERS = 20
"""Of the constant text of a message: shorter ones fit anything."""


def quoted(language: str) -> list[str]:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [" ".join(block.split()) for block in blocks]


@functools.cache
def messages() -> tuple[re.Pattern[str], ...]:
    """Every text of the code as a pattern, in which a value that is formatted into it may be anything."""
    found = []
    for package in ("launch", "pipeline", "stages"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
                constant = " ".join(text for text in texts if isinstance(text, str))
                if len(constant) >= FEWEST_LETTERS:
                    spelled = "".join(text if isinstance(text, str) else "\0" for text in texts)
                    found.append(re.compile(re.escape(" ".join(spelled.split())).replace("\0", ".+")))
    return tuple(found)


@pytest.mark.parametrize("message", quoted("text"))
def test_a_message_that_is_quoted_is_in_the_code(message: str) -> None:
    longest = max((len(match[0]) for pattern in messages() if (match := pattern.search(message))), default=0)
    assert longest >= 0.6 * len(message)


@pytest.mark.parametrize("message", quoted("pytorch"))
def test_a_message_of_pytorch_is_in_its_library(message: str) -> None:
    spec = importlib.util.find_spec("torch")
    library = Path(str(spec and spec.origin)).parent / "lib" / "libc10_cuda.so"
    if not library.exists():
        pytest.skip("PyTorch is not built for CUDA here")
    assert message.encode() in library.read_bytes()


def test_every_exit_code_is_explained() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {name: int(code) for code, name in rows} == codes
