"""A number and what it counts, for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return `1 image`, `2 images`, `1,000 classes`."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return `images`, `classes`."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
