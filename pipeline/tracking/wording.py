"""Times, rates and epochs in words, and the text of events: the same on a terminal, in a log and in every command."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from pipeline.ground.counting import counted, plural
from pipeline.tracking.events import Event

_MANY_IMAGES = 10_000
"""Of so many, one is at most the last digit that is shown."""


def describe(stage: str, event: Event) -> str | None:
    """Return the line of an event other than progress, or None for a kind that is not shown."""
    match event["kind"]:
        case "validation":
            fields = ["validation", epoch(event["epoch"]), *errors(event)]
        case "evaluation":
            fields = [
                "evaluation",
                event["plan"],
                counted(event["images"], "image"),
                counted(event["members"], "member") if "members" in event else counted(event["crops"], "crop"),
                *errors(event),
                duration(event["seconds"]),
            ]
        case "checkpoint":
            fields = ["checkpoint", f"step {event['global_step']:,}", f"saved in {duration(event['seconds'])}"]
        case "note":
            fields = ["warning" if event["level"] == "warning" else stage, event["text"]]
        case _:
            return None
    return "  ".join(fields)


def describe_training(event: Event) -> list[str]:
    """Return the fields of a train event that extend the progress of the steps."""
    loss = event["loss"]
    shown = f"{loss:.3f}" if loss < 1e4 else f"{loss:.3g}"
    return [f"loss {shown}", f"lr {event['lr']:.3g}", rate(event["images_per_second"], "image")]


def rate(value: float, noun: str) -> str:
    """Format a rate with three digits: `1,412 images/s`, `41.2 images/s`, `0.50 images/s`."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{decimals}f} {plural(noun)}/s"


def epoch(value: float) -> str:
    """Format a position in the training, `epoch 8.0`: an epoch ends within a batch, so it is hardly ever a whole
    number."""
    return f"epoch {value:.1f}"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units: `8 d 17 h`, `3 h 16 min`, `1 min 30 s`, `29 s`; `3.1 s` if short."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, size), (small, part) in itertools.pairwise(units):
        if seconds >= size - part / 2:
            count, rest = divmod(round(seconds / part), size // part)
            return f"{count} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.0f} s"


def percentage(percent: float, images: int | None) -> str:
    """Format an error, `17.28 %`; of so few images that one of them moves the digits with its number, `0.28 % (1 of
    359)`."""
    if images is None or images >= _MANY_IMAGES:
        return f"{percent:.2f} %"
    return f"{percent:.2f} % ({round(percent * images / 100):,} of {images:,})"


def errors(figures: Mapping[str, Any]) -> list[str]:
    """Return a field for each error among the figures of an event or a stage; few classes have no top-5 error."""
    images = figures.get("images")
    fields = [
        f"top-{k} error {percentage(figures[f'top{k}_error_percent'], images)}"
        for k in (1, 5)
        if figures.get(f"top{k}_error_percent") is not None
    ]
    if "restricted_top1_error_percent" in figures:
        among = f"among the {counted(figures['present_classes'], 'class')} present"
        fields.append(f"top-1 error {among} {percentage(figures['restricted_top1_error_percent'], images)}")
    return fields
