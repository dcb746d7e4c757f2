from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.ground.errors import StopRequested, TrainingDiverged, UserError
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.tracking import listeners as listeners_module
from pipeline.tracking.listeners import listening
from stages import STAGES
from tests.recipes import small_recipe


class RecordingMirror:
    """Stands where W&B would be, to see what it is told."""

    def __init__(self, config: Any, placed: Any, run: Path, mode: str, warn: Any) -> None:
        self.mode = mode
        self.warn = warn
        self.events: list[Any] = []
        self.exit_codes: list[int] = []
        MIRRORS.append(self)

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def close(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        self.warn("a last word")


MIRRORS: list[RecordingMirror] = []


@pytest.fixture(autouse=True)
def _no_real_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    MIRRORS.clear()
    monkeypatch.setattr(listeners_module, "WandbMirror", RecordingMirror)
    monkeypatch.setenv("WANDB_MODE", "offline")


def listen(tmp_path: Path, stage: str, wandb: str = "auto", error: BaseException | None = None) -> None:
    config = small_recipe(tmp_path, tracking={"wandb": wandb})
    placed: PlacedStage = place_stages(config, tmp_path, STAGES)[stage]
    with listening(config, placed, tmp_path) as heard:
        for listener in heard:
            listener({"kind": "note", "time": 0.0, "level": "info", "text": "hello"})
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (StopRequested("x"), 75),
        (TrainingDiverged("x"), 1),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_wandb_is_told_how_the_stage_ends(tmp_path: Path, error: BaseException, code: int) -> None:
    with pytest.raises(type(error)):
        listen(tmp_path, "train", error=error)
    assert MIRRORS[0].exit_codes == [code]


def test_everybody_hears_and_last_words_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen(tmp_path, "train")
    assert [event["text"] for event in MIRRORS[0].events] == ["hello"]
    assert MIRRORS[0].exit_codes == [0]
    assert capsys.readouterr().out == "train  hello\nwarning  a last word\n"


def test_how_to_upload_is_said_once_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("train", "evaluate", "report"):
        listen(tmp_path, stage)
    said = capsys.readouterr().out
    assert said.count("wandb sync") == 1
    assert f"{tmp_path}/wandb/offline-run-*" in said


def test_wandb_can_be_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen(tmp_path, "train", wandb="disabled")
    assert MIRRORS == []
    assert capsys.readouterr().out == "train  hello\n"
