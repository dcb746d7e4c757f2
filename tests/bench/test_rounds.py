from __future__ import annotations

import json

import pytest

from pipeline.bench.measurement import Measurement, Role, Round, Spread
from pipeline.bench.rounds import Comparison, Quantity, aligned, figure, per_unit

COST, SPEED = per_unit("image")


def taken(name: str, role: Role, *cpu: float, wall: float = 1.0, **figures: float) -> Measurement:
    """Rounds of 10 images with these CPU seconds."""
    return Measurement(name, role, tuple(Round(10, wall, seconds, figures) for seconds in cpu))


def test_quantities_per_image_follow_from_cpu_seconds_and_the_clock():
    done = Round(10, 2.0, 0.5, {})
    assert COST.of(done) == pytest.approx(50)
    assert SPEED.of(done) == pytest.approx(5)


def test_ratios_are_those_of_the_paired_rounds():
    ours, peer = taken("a", "ours", 1, 2, 4), taken("b", "peer", 2, 3, 16)
    assert Comparison("t", (COST,), (ours, peer)).ratio(peer) == Spread(median=2, lowest=1.5, highest=4)


def test_differences_of_which_one_is_not_above_0_have_no_ratio_and_no_verdict():
    for own, others in (((-1, 2), (2, 6)), ((1, 2), (2, 0))):
        comparison = Comparison("t", (COST,), (taken("a", "ours", *own), taken("b", "peer", *others)))
        assert comparison.ratio(comparison.measurements[1]) is None
        assert comparison.verdict() is None


def test_small_values_are_shown_with_three_digits():
    text = Comparison(
        "t", (figure("ms"),), (taken("a", "ours", 1, ms=0.01253), taken("b", "peer", 1, ms=0.7))
    ).as_text()
    assert "0.0125 (0.0125 to 0.0125)" in text
    assert "0.70 (0.70 to 0.70)" in text


def test_where_more_is_better_the_ratio_turns_round():
    ours, peer = taken("a", "ours", 1, wall=1.0), taken("b", "peer", 1, wall=4.0)
    assert Comparison("t", (SPEED,), (ours, peer)).ratio(peer) == Spread(4, 4, 4)


def test_the_peer_is_the_best_of_them_and_ours_the_best_of_ours():
    rows = (
        taken("slow way", "ours", 9),
        taken("our way", "ours", 2),
        taken("bad cell", "peer", 8),
        taken("best cell", "peer", 3),
        taken("no peer", "other", 1),
    )
    comparison = Comparison("t", (COST,), rows)
    assert (comparison.ours, comparison.best_peer) == (rows[1], rows[3])
    assert comparison.verdict() == "our way is ahead of the best peer, best cell: 1.50x in CPU ms/image (1.50 to 1.50)"


def test_falling_behind_is_said_as_loudly():
    comparison = Comparison("t", (COST,), (taken("ours", "ours", 4), taken("peer", "peer", 3)))
    assert comparison.verdict() == "ours is BEHIND the best peer, peer: 0.75x in CPU ms/image (0.75 to 0.75)"


def test_without_a_peer_there_is_no_verdict():
    comparison = Comparison("t", (COST,), (taken("a", "other", 1), taken("b", "other", 2)))
    assert comparison.verdict() is None
    assert "ahead" not in comparison.as_text()


def test_the_table_has_every_row_with_median_range_and_ratio():
    rows = (taken("ours", "ours", 1, 2, 3, room=1.5), taken("peer", "peer", 4, 4, 6))
    text = Comparison("title", (COST, figure("room")), rows).as_text()
    assert text.splitlines() == [
        "title",
        "                   CPU ms/image                 room     ours is better by",
        "ours  200.00 (100.00 to 300.00)  1.50 (1.50 to 1.50)",
        "peer  400.00 (400.00 to 600.00)                    -  2.00x (2.00 to 4.00)",
        "ours is ahead of the best peer, peer: 2.00x in CPU ms/image (2.00 to 4.00)",
    ]


def test_the_record_has_every_round_and_can_be_written_as_json():
    rows = (taken("ours", "ours", 1, 2), taken("peer", "peer", 4, 4, room=3.0))
    fields = json.loads(json.dumps(Comparison("title", (COST, figure("room")), rows).as_fields()))
    assert fields["best_peer"] == "peer"
    assert fields["ratio_of"] == "CPU ms/image"
    ours, peer = fields["contestants"]
    assert ours["ours_is_better_by"] is None
    assert peer["ours_is_better_by"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0}
    assert ours["CPU ms/image"] == {"median": 150.0, "lowest": 100.0, "highest": 200.0}
    assert (ours["room"], peer["room"]["median"]) == (None, 3.0)
    assert peer["rounds"][1] == {"units": 10, "wall_seconds": 1.0, "cpu_seconds": 4, "figures": {"room": 3.0}}


def test_columns_stand_below_each_other():
    assert aligned([("", "long"), ("row", "1"), ("r", "22")]) == ["     long", "row     1", "r      22"]


def test_a_quantity_that_a_contestant_does_not_have_is_left_open():
    missing = Quantity("x", lambda done: None)
    assert missing.spread(taken("a", "ours", 1)) is None
