from __future__ import annotations

import importlib.metadata
import tomllib

import pytest

from launch.command import parse
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("argv", [["--version"], ["--version", "run"]])
def test_the_version_is_that_of_the_source(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 0
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"senet154 {project['version']}\n"
    assert tuple(map(int, project["version"].split("."))) >= (0, 2, 0)


def test_without_its_source_the_version_is_that_of_the_installed_package(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("launch.version.__file__", str(tmp_path / "launch" / "version.py"))
    with pytest.raises(SystemExit):
        parse(["--version"])
    assert capsys.readouterr().out == f"senet154 {importlib.metadata.version('senet154')}\n"
