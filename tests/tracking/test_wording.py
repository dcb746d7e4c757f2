from __future__ import annotations

from typing import Any

import pytest

from pipeline.tracking.wording import describe, duration, errors, rate


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"kind": "validation", "epoch": 3.0, "top1_error_percent": 4.1666, "top5_error_percent": 0.28},
            "validation  epoch 3.0  top-1 error 4.17 %  top-5 error 0.28 %",
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
            "evaluation  10crop  50,000 images  10 crops  top-1 error 17.00 %  top-5 error 3.50 %  1 h 2 min",
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
    ("value", "text"),
    [(1412.3, "1,412 passes/s"), (99.96, "100 passes/s"), (41.24, "41.2 passes/s"), (0.5, "0.50 passes/s")],
)
def test_a_rate_has_three_digits_however_small(value: float, text: str) -> None:
    assert rate(value, "pass") == text


def test_errors_of_few_images_are_counts_too_as_one_image_moves_the_percent() -> None:
    figures = {"top1_error_percent": 0.278552, "top5_error_percent": 0.0}
    assert errors({**figures, "images": 359}) == ["top-1 error 0.28 % (1 of 359)", "top-5 error 0.00 % (0 of 359)"]
    assert errors({**figures, "images": 50_000}) == errors(figures) == ["top-1 error 0.28 %", "top-5 error 0.00 %"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (29.4, "29 s"),
        (59.6, "1 min"),
        (90, "1 min 30 s"),
        (3599.7, "1 h"),
        (11_775, "3 h 16 min"),
        (86_399, "1 d"),
        (753_628, "8 d 17 h"),
    ],
)
def test_a_duration_has_no_more_than_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
