"""What `launch keys` says is what the schema says; `test_recipes` holds docs/keys.md."""

from __future__ import annotations

import pytest

from launch.keys import print_keys
from pipeline.config.documentation import find_entries, key_entries
from pipeline.config.identity import leaves
from pipeline.config.section import Kind
from pipeline.ground.errors import UserError


def test_every_key_is_there_with_a_meaning():
    entries = {entry.name: entry for entry in key_entries()}
    assert {leaf.name for leaf in leaves()} <= entries.keys()
    assert [name for name, entry in entries.items() if not entry.meaning] == []


def test_kind_and_default_are_those_of_the_schema():
    entries = {entry.name: entry for entry in key_entries()}
    assert [entries[leaf.name].kind for leaf in leaves()] == [leaf.kind for leaf in leaves()]
    assert entries["train.epochs"].default == "must be given"
    assert entries["optim.momentum"].type == "a number, at least 0, less than 1"
    assert (entries["evaluate.plans"].default, entries["data.root"].default) == ('["center224"]', "null")
    assert entries["loader.threads"].kind is Kind.OPERATION


def test_keys_named_by_the_word_come_before_those_that_mention_it():
    names = [entry.name for entry in find_entries("Frozen")]
    assert names[0] == "train.frozen_epochs"
    assert "train.epochs" in names


def test_keys_tells_type_default_meaning_and_effect(capsys):
    assert print_keys("label_smoothing") == 0
    assert capsys.readouterr().out == (
        "train.label_smoothing: a number, at least 0, less than 1; default 0.1; changes results\n"
        "    Share of the target that is spread evenly over all classes.\n"
    )


def test_keys_knows_the_names_of_others(capsys):
    assert print_keys("num_workers") == 0
    assert "num_workers: write loader.threads" in capsys.readouterr().out


def test_a_word_that_nothing_has_is_refused():
    with pytest.raises(UserError, match=r"no key has 'qqqq' in its name or meaning; all keys: .*python -m launch keys"):
        print_keys("qqqq")
