"""What YAML makes of values, and what is said where a text is no YAML."""

from __future__ import annotations

import re
import time

import pytest

from pipeline.config.document import decode_document
from pipeline.config.reader import load_config
from tests.config.written import SMALL, mistakes, with_lr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1", 1.0),
        (".5", 0.5),
        ("+0.5", 0.5),
        ("010", 10.0),
        ("!!float 1", 1.0),
    ],
)
def test_ways_to_write_a_number_are_one_float(write, text, value):
    lr = load_config(write(with_lr(text))).optim.lr
    assert lr == value
    assert isinstance(lr, float)


@pytest.mark.parametrize("text", ["24:00:00", "2018-01-01", "1,5", "0.1.2", "'0.1'", "1e", "0b1"])
def test_text_that_resembles_a_number_is_refused_as_a_number(write, text):
    assert mistakes(write(with_lr(text))) == [f"small.yaml:8: optim.lr: must be a number (given {text})"]


@pytest.mark.parametrize("text", [".inf", ".nan"])
def test_infinite_and_undefined_numbers_are_refused(write, text):
    assert mistakes(write(with_lr(text))) == [f"small.yaml:8: optim.lr: must be a finite number (given {text})"]


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "Y"])
def test_booleans_of_older_yaml_are_refused_with_the_reason(write, text):
    path = write(SMALL + f"augmentation:\n  flip: {text}\n")
    assert mistakes(path) == [
        f"small.yaml:18: augmentation.flip: must be true or false (given {text}, which is text in YAML 1.2)"
    ]


@pytest.mark.parametrize("text", ["1_000", "1_0"])
def test_numbers_with_underscores_of_older_yaml_are_refused_with_the_reason(write, text):
    assert mistakes(write(SMALL.replace("epochs: 4", f"epochs: {text}"))) == [
        f"small.yaml:12: train.epochs: must be a whole number (given {text}, which is text in YAML 1.2)"
    ]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False)])
def test_booleans_are_read(write, text, value):
    assert load_config(write(SMALL + f"augmentation:\n  flip: {text}\n")).augmentation.flip is value


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_is_null_however_it_is_written(write, text):
    assert load_config(write(SMALL + f"tracking:\n  entity: {text}\n")).tracking.entity is None


@pytest.mark.parametrize("text", ["on", "24:00:00", "2018-01-01", "1.2.3", "1_000", "=", "'2017'"])
def test_text_stays_the_text_it_was(write, text):
    assert load_config(write(SMALL + f"tracking:\n  project: {text}\n")).tracking.project == text.strip("'")


def test_number_where_text_belongs_is_to_be_quoted(write):
    assert mistakes(write(SMALL.replace("name: small", "name: 2017"))) == [
        "small.yaml:1: name: must be text (given 2017; put it in quotes)"
    ]


def test_whole_numbers_are_written_without_a_point(write):
    assert mistakes(write(SMALL.replace("epochs: 4", "epochs: 4.0"))) == [
        "small.yaml:12: train.epochs: must be a whole number (given 4.0)"
    ]


def test_anchors_and_aliases_are_read(write):
    text = SMALL.replace("lr: 0.1", "lr: &rate 0.125\n  weight_decay: *rate")
    assert load_config(write(text)).optim.weight_decay == 0.125


def test_byte_order_mark_and_crops_lines_are_read(write):
    assert load_config(write(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())).optim.lr == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a: b\n", "x.yaml:1: not valid YAML: a second ': ' in the line, or wrong indentation"),
        ("name: x\n\tseed: 1\n", "x.yaml:2: not valid YAML: tabs cannot indent; use spaces"),
        (
            "name: x\nlr: [1,\nseed: 1\n",
            "x.yaml:2: not valid YAML: a bracket that opens here is not closed, or its items lack a comma",
        ),
        ("name: 'x\n", "x.yaml:1: not valid YAML: a quote that opens here is not closed"),
        ("name: x\nlr: {a: 1\nseed: 1\n", "x.yaml:2: not valid YAML: a bracket that opens here is not closed"),
        ("name: [a: b: c]\n", "x.yaml:1: not valid YAML: "),
        ("name: @x\n", "x.yaml:1: not valid YAML: while scanning for the next token, found character '@'"),
        ("name: x\n seed: 1\n", "x.yaml:2: not valid YAML: "),
        ("name: *x\n", "x.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("name: x\n---\nname: y\n", "x.yaml:2: not valid YAML: '---' begins a second document"),
        ("name: x\nseed: \x00\n", "x.yaml:2: not valid YAML: holds the control character U+0000"),
        ("[" * 2000, "x.yaml:1: not valid YAML: hundreds of brackets within each other"),
        (b"name: x\nseed: caf\xe9\n", "x.yaml:2: must be UTF-8 text (given the byte 0xe9)"),
        ("name: x\n".encode("utf-16"), "x.yaml:1: must be UTF-8 text (given the byte 0xff)"),
        ("", "x.yaml:1: a recipe must be `key: value` lines (given nothing)"),
        ("# nothing\n", "x.yaml:1: a recipe must be `key: value` lines (given nothing)"),
        ("- name\n", "x.yaml:1: a recipe must be `key: value` lines (given [name])"),
        ("name\n", "x.yaml:1: a recipe must be `key: value` lines (given name)"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(write, text, message):
    lines = mistakes(write(text, "x.yaml"))
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_key_given_twice_is_refused_with_both_lines(write):
    assert mistakes(write(SMALL + "seed: 1\nseed: 2\n")) == [
        "small.yaml:18: seed: must be given once (small.yaml:17 has it already)"
    ]


@pytest.mark.parametrize("tag", ["!rate", "!!python/object/apply:os.getcwd", "!!set"])
def test_tags_are_refused_and_construct_nothing(write, tag):
    assert mistakes(write(with_lr(f"{tag} []"))) == [
        f"small.yaml:8: optim.lr: must be a plain value (given the tag {tag})"
    ]


def test_value_that_is_not_what_its_tag_says_is_refused(write):
    assert mistakes(write(with_lr("!!int abc"))) == [
        "small.yaml:8: optim.lr: must be what its tag says (given !!int abc)"
    ]


def test_list_that_contains_itself_is_refused(write):
    assert mistakes(write(with_lr("&a [*a]")))[0] == (
        "small.yaml:8: optim.lr[0]: must not contain itself (an alias to what encloses it)"
    )


def test_aliases_that_multiply_are_refused_at_once(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    before = time.monotonic()
    found = mistakes(write("\n".join(lines)))
    assert time.monotonic() - before < 5
    assert len(found) == 1
    assert re.match(r"small\.yaml:1: a\d\S*: aliases \(\*name\) repeat more than 10,000 values in all$", found[0])


def test_long_lists_are_no_multiplied_aliases(write):
    names = "".join(f"    - train/a/{number}.jpg\n" for number in range(10_001))
    path = write(SMALL.replace("  dataset: digits\n", f"  dataset: digits\n  exclude:\n{names}"))
    assert len(load_config(path).data.exclude) == 10_001


def test_key_that_is_a_list_is_refused(write):
    assert mistakes(write(SMALL + "? [a, b]\n: 1\n")) == [
        "small.yaml:17: must have plain names as keys (given a list or a mapping)"
    ]


def test_long_values_are_shortened_in_messages():
    shown = decode_document(f"[{', '.join(map(str, range(100)))}]".encode(), "x").root.text
    assert len(shown) == 60
    assert shown.endswith("...")
