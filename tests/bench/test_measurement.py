from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.bench.measurement import Contestant, Spread, Work, cpu_seconds, measure

BURN = "import time\nwhile time.process_time() < 0.3: pass"


def recording(name: str, calls: list[str]) -> Contestant:
    def run() -> Work:
        calls.append(name)
        return Work(len(calls))

    return Contestant(name, "ours", run)


def test_contestants_take_turns_and_each_round_begins_with_another():
    calls: list[str] = []
    measure([recording(name, calls) for name in "abc"], 4, warm_up=1)
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert rounds == ["abc", "abc", "bca", "cab", "abc"]


def test_warm_up_is_not_recorded_and_measurements_keep_the_order_of_the_contestants():
    calls: list[str] = []
    taken = measure([recording(name, calls) for name in "ab"], 2, warm_up=3)
    assert [measurement.name for measurement in taken] == ["a", "b"]
    # The number of calls so far: six in the warm-up, then a, b, b, a.
    assert [[done.units for done in measurement.rounds] for measurement in taken] == [[7, 10], [8, 9]]


def test_figures_of_the_work_and_of_settling_are_joined():
    settled = iter([{"late": 1.0}, {"late": 2.0}])
    contestant = Contestant("a", "ours", lambda: Work(1, {"early": 5.0}), lambda: next(settled))
    (taken,) = measure([contestant], 2, warm_up=0)
    assert [dict(done.figures) for done in taken.rounds] == [{"early": 5.0, "late": 1.0}, {"early": 5.0, "late": 2.0}]


def test_cpu_seconds_count_this_process_and_children_living_and_ended():
    before = cpu_seconds()
    ended = subprocess.run([sys.executable, "-c", BURN], check=True)
    assert ended.returncode == 0
    after_ended = cpu_seconds()
    assert after_ended - before >= 0.29
    code = f"{BURN}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        living.stdout.readline()
        while_living = cpu_seconds()
        assert while_living - after_ended >= 0.29
        living.communicate(b"\n")
    # What the child used moved from the living to the ended: it is neither lost nor counted twice.
    assert while_living <= cpu_seconds() + 0.02
    assert cpu_seconds() - while_living < 0.29


@pytest.mark.parametrize(("values", "spread"), [([3.0], Spread(3, 3, 3)), ([5.0, 1.0, 2.0, 4.0], Spread(3, 1, 5))])
def test_spread_is_the_median_with_the_range(values, spread):
    assert Spread.of(values) == spread
