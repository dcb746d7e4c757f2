from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.wandb_state import STATE, Cursor, read_state, write_state


def test_the_state_is_kept(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    state.sent.advance({"kind": "evaluation", "plan": "10crop"})
    state.open_fragment = "wandb/offline-run-1"
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state


def test_every_stage_gets_an_id_of_its_own(tmp_path: Path) -> None:
    assert read_state(tmp_path).id != read_state(tmp_path).id


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"id": "x"}', '{"id": "x", "sent": {}, "sent_before": {}, "new": 1}']
)
def test_a_state_that_cannot_be_read_begins_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    assert read_state(tmp_path).sent == Cursor()


def test_each_kind_of_event_has_its_own_place() -> None:
    cursor = Cursor()
    assert cursor.advance({"kind": "train", "global_step": 5})
    assert cursor.advance({"kind": "validation", "global_step": 5})
    assert not cursor.advance({"kind": "train", "global_step": 5})
    assert not cursor.advance({"kind": "validation", "global_step": 3})
    assert cursor.advance({"kind": "train", "global_step": 6})


def test_a_crop_plan_is_sent_once() -> None:
    cursor = Cursor()
    sent = [cursor.advance({"kind": "evaluation", "plan": plan}) for plan in ("a", "b", "a")]
    assert sent == [True, True, False]
