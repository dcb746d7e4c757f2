"""The text of events: short lines of fields with units, the same on a terminal and in a log."""

from __future__ import annotations

import itertools
from typing import Any

from pipeline.ground.counting import counted
from pipeline.tracking.events import Event


def describe(stage: str, event: Event) -> str | None:
    """Return the line of an event other than progress, or None for a kind that is not shown."""
    match event["kind"]:
        case "validation":
            fields = ["validation", f"epoch {round(event['epoch'], 2):g}", *_errors(event)]
        case "evaluation":
            fields = [
                "evaluation",
                event["plan"],
                counted(event["images"], "image"),
                counted(event["members"], "member") if "members" in event else counted(event["crops"], "crop"),
                *_errors(event),
                duration(event["seconds"]),
            ]
        case "checkpoint":
            fields = ["checkpoint", f"step {event['global_step']:,}", f"saved in {event['seconds']:.1f} s"]
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


def rate(value: float, unit: str) -> str:
    """Format a rate, `412 images/s`; with decimals if it is small."""
    singular = unit.removesuffix("s")
    return f"{value:,.0f} {singular}s/s" if value >= 10 else f"{value:.2f} {singular}s/s"


def duration(seconds: float) -> str:
    """Format a duration: `3.1 s` under a minute, else hours, minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)


def clock_time(seconds: float) -> str:
    """Format hours, minutes and seconds, `0:00:31`, with days if there are any, `2d 3:04:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"


def rough_time(seconds: float) -> str:
    """Format an estimated duration in its two largest units: `8 d 17 h`, `3 h 16 min`, `1 min 30 s`, `29 s`."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, size), (small, part) in itertools.pairwise(units):
        if seconds >= size - part / 2:
            count, rest = divmod(round(seconds / part), size // part)
            return f"{count} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.0f} s"


def _errors(event: dict[str, Any]) -> list[str]:
    fields = [
        f"top-{k} error {event[f'top{k}_error_percent']:.2f} %" for k in (1, 5) if f"top{k}_error_percent" in event
    ]
    if "restricted_top1_error_percent" in event:
        among = f"among the {counted(event['present_classes'], 'class')} present"
        fields.append(f"top-1 error {among} {event['restricted_top1_error_percent']:.2f} %")
    return fields
