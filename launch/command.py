"""Parsing of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from launch.options import build_parser
from launch.recipe_options import find_recipe
from pipeline.ground.interpreter import program_words

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Request = TypeVar("Request", bound="DataclassInstance")
_WITH_SWEEPS = ("plan", "run", "submit")
_WITH_RECIPE = (*_WITH_SWEEPS, "tune")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; exits with 2 and a message if they are wrong. `key=value` may stand anywhere."""
    parser = build_parser(shlex.join(program_words()))
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command in _WITH_RECIPE:
        for number, word in enumerate(rest):
            if word.startswith("--") and (hint := _key_hint(word, rest[number + 1 :])) is not None:
                parser.error(f"{word}: {hint}")
        # argparse ends a list of positional arguments at the first option between them.
        arguments.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if arguments.command in _WITH_SWEEPS:
        words = arguments.overrides
        recipes = [word for word in words if "=" not in word and (Path(word).exists() or not _is_folder(word))]
        try:
            arguments.other_configs = [find_recipe(word) for word in recipes]
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        arguments.overrides = [word for word in words if word not in recipes]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def request_of(cls: type[Request], arguments: argparse.Namespace) -> Request:
    """Build a command's request from the parsed arguments that its fields name; lists become tuples."""
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)}
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _is_folder(word: str) -> bool:
    """Return whether a path is probably meant for the images, not for a recipe."""
    return "/" in word and Path(word).suffix not in (".yaml", ".yml")


def _key_hint(option: str, following: Sequence[str]) -> str | None:
    """Return what to write for an option that is a key of the recipe, here or elsewhere; None if it is no key."""
    from pipeline.config.keys import all_keys, resolve_short_key  # pydantic, which no other command line needs
    from pipeline.config.synonyms import answer_for

    name, _, value = option.removeprefix("--").partition("=")
    name, value = name.replace("-", "_"), value or next((word for word in following[:1] if word[:1] != "-"), "VALUE")
    try:
        is_key = resolve_short_key(name) in all_keys()
    except ValueError as error:  # of several keys
        return str(error)
    answer = f"write {shlex.quote(f'{name}={value}')}" if is_key else answer_for(name)
    return f"keys of the recipe have no dashes; {answer}" if answer and answer.startswith("write") else answer
