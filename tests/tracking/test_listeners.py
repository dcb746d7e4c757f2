from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.operations import TrackingConfig
from pipeline.ground.errors import StopRequested, TrainingDiverged, UserError
from pipeline.tracking import listeners as listeners_module
from pipeline.tracking.listeners import listening
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import CONSOLE
from tests.tracking.stages import tracked


class RecordingMirror:
    """Stands where W&B would be, to see what it is told."""

    def __init__(self, settings: TrackingConfig, stage: Tracked, mode: str, warn: Any) -> None:
        self.mode = mode
        self.warn = warn
        self.exit_codes: list[int] = []
        MIRRORS.append(self)

    def close(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        self.warn("a last word")


MIRRORS: list[RecordingMirror] = []


@pytest.fixture(autouse=True)
def _no_real_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    MIRRORS.clear()
    monkeypatch.setattr(listeners_module, "WandbMirror", RecordingMirror)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("SENET154_WARNING_SECONDS", raising=False)


def listen(stage: Tracked, wandb: Any = "auto", error: BaseException | None = None) -> None:
    with listening(TrackingConfig(wandb=wandb), stage) as heard:
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
        listen(tracked(tmp_path), error=error)
    assert MIRRORS[0].exit_codes == [code]


def test_everybody_hears_and_last_words_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen(tracked(tmp_path))
    assert MIRRORS[0].exit_codes == [0]
    assert capsys.readouterr().out == "train  hello\nwarning  a last word\n"
    assert (tracked(tmp_path).directory / CONSOLE).read_text() == "train  hello\nwarning  a last word\n"
    listen(tracked(tmp_path))
    assert (tracked(tmp_path).directory / CONSOLE).read_text().count("hello") == 1, "of this attempt alone"


def test_a_console_log_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tracked(tmp_path).directory / CONSOLE).mkdir()
    listen(tracked(tmp_path))
    assert capsys.readouterr().out == "train  hello\nwarning  a last word\n"


def test_wandb_can_be_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen(tracked(tmp_path), wandb="disabled")
    assert MIRRORS == []
    assert capsys.readouterr().out == "train  hello\n"


def test_a_warning_too_short_for_a_checkpoint_is_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENET154_WARNING_SECONDS", "10")
    listen(tracked(tmp_path, checkpoint_seconds=31.0), wandb="disabled")
    assert "a checkpoint takes 31 s, the warning comes 10 s before the end" in capsys.readouterr().out
