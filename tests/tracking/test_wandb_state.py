from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking.wandb_state import RESULTS, STATE, State, read_link, read_state, write_state

TRAIN, EVALUATE = Path("train-0123456789"), Path("evaluate-0123456789")


def test_the_state_is_kept(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    assert state.take(EVALUATE, {"kind": "evaluation", "plan": "10crop"})
    assert state.take(TRAIN, {"kind": "train", "global_step": 5})
    state.open_fragment, state.sent_before = "wandb/offline-run-1", {"train-0123456789": {"train": 3}}
    state.summary["train/loss"] = 0.5
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state


def test_every_run_gets_an_id_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    assert read_state(tmp_path).id != read_state(tmp_path).id


def test_a_run_has_a_link_once_it_was_online(tmp_path: Path) -> None:
    assert read_link(tmp_path) is None
    write_state(tmp_path, State("x", url="https://wandb.example.org/x"))
    assert read_link(tmp_path) == "https://wandb.example.org/x"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": "x", "sent": {"y": {}}, "new": 1}', "\udcff"])
def test_a_state_that_cannot_be_read_begins_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_state(tmp_path).sent == {}


def test_each_stage_and_kind_of_event_has_its_own_place() -> None:
    state = State("x")
    assert state.take(TRAIN, {"kind": "train", "global_step": 5})
    assert state.take(TRAIN, {"kind": "validation", "global_step": 5})
    assert not state.take(TRAIN, {"kind": "train", "global_step": 5})
    assert not state.take(TRAIN, {"kind": "validation", "global_step": 3})
    assert state.take(TRAIN, {"kind": "train", "global_step": 6})
    assert state.take(EVALUATE, {"kind": "train", "global_step": 1})
    assert not state.take(TRAIN, {"kind": "something new"})


def test_a_crop_plan_and_the_results_are_sent_once() -> None:
    state = State("x")
    events = [*({"kind": "evaluation", "plan": plan} for plan in ("a", "b", "a")), RESULTS, RESULTS]
    assert [state.take(EVALUATE, event) for event in events] == [True, True, False, True, False]
