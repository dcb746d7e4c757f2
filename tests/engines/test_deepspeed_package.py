from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from pipeline.engines.deepspeed_package import check_installed
from pipeline.ground.errors import UserError


def test_installed_package_is_found() -> None:
    check_installed()


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without_deepspeed(name: str, *rest: Any) -> Any:
        return None if name == "deepspeed" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_deepspeed)
    with pytest.raises(
        UserError, match=r"(?s)needs the package DeepSpeed .* -m pip install 'deepspeed>=0.19'"
    ) as caught:
        check_installed()
    assert "engine: deepspeed" in str(caught.value)
