from __future__ import annotations

from typing import Any

import pytest

from pipeline.tracking.wording import clock_time, describe, duration, rate, rough_time


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"kind": "validation", "epoch": 3.0, "top1_error_percent": 4.1666, "top5_error_percent": 0.28},
            "validation  epoch 3  top-1 error 4.17 %  top-5 error 0.28 %",
        ),
        (
            {
                "kind": "evaluation",
                "plan": "10crop",
                "images": 50000,
                "crops": 10,
                "top1_error_percent": 17.0,
                "top5_error_percent": 3.5,
                "seconds": 3725.4,
            },
            "evaluation  10crop  50,000 images  10 crops  top-1 error 17.00 %  top-5 error 3.50 %  1:02:05",
        ),
        (
            {"kind": "checkpoint", "global_step": 1250, "path": "x/step-00001250", "seconds": 4.13},
            "checkpoint  step 1,250  saved in 4.1 s",
        ),
        ({"kind": "note", "level": "info", "text": "hello"}, "train  hello"),
        ({"kind": "note", "level": "warning", "text": "careful"}, "warning  careful"),
        ({"kind": "something new"}, None),
    ],
)
def test_events_read_as_short_lines_with_units(event: dict[str, Any], line: str | None) -> None:
    assert describe("train", event) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (31.4, "0:00:31"), (59.6, "0:01:00"), (3725, "1:02:05"), (2 * 86400 + 3 * 3600 + 4, "2d 3:00:04")],
)
def test_times_are_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


def test_short_durations_have_a_decimal() -> None:
    assert (duration(3.14), duration(61)) == ("3.1 s", "0:01:01")


def test_rates_have_decimals_only_where_they_are_small() -> None:
    assert (rate(1412.3, "image"), rate(0.5, "step")) == ("1,412 images/s", "0.50 steps/s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (29.4, "29 s"),
        (59.6, "1 min"),
        (90, "1 min 30 s"),
        (3599.7, "1 h"),
        (11_775, "3 h 16 min"),
        (86_399, "1 d"),
        (753_628, "8 d 17 h"),
    ],
)
def test_an_estimate_has_no_more_than_two_units(seconds: float, text: str) -> None:
    assert rough_time(seconds) == text
