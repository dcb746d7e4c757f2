from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.written import SMALL


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a recipe into an empty working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)

    def write_recipe(text: str | bytes = SMALL, name: str = "small.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_recipe
