from __future__ import annotations

import re

import pytest

from pipeline.config.crop_plan import builtin_plan
from pipeline.config.keys import all_keys
from pipeline.config.overrides import describe_overrides
from pipeline.config.reader import load_config
from pipeline.config.synonyms import _ANSWERS
from tests.config.written import SMALL, mistakes


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        ("epochs=3", "train.epochs", 3),
        (" epochs = 3", "train.epochs", 3),
        ("processes=2", "resources.processes", 2),
        ("lr=1e-4", "optim.lr", 1e-4),
        ("lr=1", "optim.lr", 1.0),
        ("flip=false", "augmentation.flip", False),
        ("area=[0.5, 1]", "augmentation.area", (0.5, 1.0)),
        ("schedule={kind: cosine, drop_epochs: []}", "schedule.kind", "cosine"),
        ("plans=[center320, 10crop]", "evaluate.plans", (builtin_plan("center320"), builtin_plan("10crop"))),
        ("validation=center320", "train.validation", builtin_plan("center320")),
        ("every_steps=null", "checkpoint.every_steps", None),
        ("evaluate.weights=", "evaluate.weights", None),
        ("evaluate.weights=runs/a=b.safetensors", "evaluate.weights", "runs/a=b.safetensors"),
        ("expect={parameters: 1, gmacs: 1}", "model.expect.parameters", 1),
    ],
)
def test_override_sets_its_key(write, override, key, value):
    config = load_config(write(), [override])
    for name in key.split("."):
        config = getattr(config, name)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    "text", ["2017", "true", "1e-4", "2018-01-01", "a: b", "a #b", "@a", "[a", "*a", "&a", "!a", "# a"]
)
def test_text_needs_no_quotes(write, text):
    assert load_config(write(), [f"evaluate.weights={text}"]).evaluate.weights == text


def test_quotes_around_text_are_taken_off(write):
    assert load_config(write(), ["project='null'"]).tracking.project == "null"


@pytest.mark.parametrize("override", ["data.root=~/images", "data.root=$HOME/images", "data.root=${HOME}/images"])
def test_home_and_variables_in_paths_are_expanded(write, monkeypatch, override):
    monkeypatch.setenv("HOME", "/home/me")
    text = SMALL.replace("dataset: digits", "dataset: folder")
    assert load_config(write(text), [override]).data.root == "/home/me/images"


def test_every_path_of_a_list_is_expanded_and_other_text_is_not(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load_config(write(), ["scores=[~/a, b]", "project=$HOME"])
    assert (config.fuse.scores, config.tracking.project) == (("/home/me/a", "b"), "$HOME")


def test_one_run_to_compare_with_is_a_list_of_one(write):
    for given, names in (("runs/a", ("runs/a",)), ("[runs/a, b]", ("runs/a", "b")), ("null", ()), ("[]", ())):
        assert load_config(write(), [f"report.compare={given}"]).report.compare == names


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("batch_size=32", "train.max_micro_batch"),
        ("learning_rate=0.1", "optim.lr"),
        ("workers=8", "loader.threads"),
        ("gpus=4", "resources.processes"),
        ("device=cpu", "CUDA_VISIBLE_DEVICES"),
        ("wd=1e-4", "optim.weight_decay"),
        ("amp=true", "execution.precision"),
        ("optim.wd=1e-4", "optim.weight_decay"),
        ("batch=32", "train.global_batch"),
        ("decay=1e-4", "optim.weight_decay"),
        ("classes=10", "model.num_classes"),
        ("classes=names.json", "evaluate.classes"),
    ],
)
def test_names_of_other_projects_are_answered_with_the_key_that_is_meant(write, override, meant):
    (message,) = mistakes(write(), [override])
    assert message.startswith(f"command line: {override.partition('=')[0]}: ")
    assert meant in message


def test_such_a_name_in_a_file_is_answered_too(write):
    assert mistakes(write(SMALL.replace("weight_decay", "wd") if "weight_decay" in SMALL else SMALL + "wd: 1\n"))[
        0
    ].endswith("wd: unknown key: write optim.weight_decay")


def test_every_answer_names_keys_that_there_are():
    known = {*all_keys(), "execution.precision"}
    for name, answer in _ANSWERS.items():
        named = re.findall(r"\b[a-z_]+\.[a-z_]+\b", answer)
        assert named or "no such key" in answer, name
        assert set(named) <= known, f"{name}: {answer}"


def test_overrides_are_told_with_their_keys_in_full_and_their_values_as_given():
    overrides = ["epochs=9", "lr=2", "lr=2", "plans=[center224, 10crop]", "every_steps=", "optim={momentum: 0}"]
    assert describe_overrides([*overrides, "sweep.lr=[1e-4, 1]", " sweep = {seed: [1]}"]) == [
        "train.epochs = 9",
        "optim.lr = 2",
        "evaluate.plans = [center224, 10crop]",
        "checkpoint.every_steps = null",
        "optim = {momentum: 0}",
        "sweep.optim.lr = [1e-4, 1]",
        "sweep = {seed: [1]}",
    ]


def test_what_an_override_makes_of_another_is_not_told_in_its_place():
    overrides = ["model.name=se_resnet_nano", "model.se=null", "model.expect.gmacs=5.0", "model.expect=null"]
    assert describe_overrides(overrides) == [override.replace("=", " = ") for override in overrides]


def test_a_key_with_two_values_is_refused_and_with_the_same_one_twice_is_not(write):
    assert mistakes(write(), ["lr=1", "optim.lr=2"]) == [
        "command line: optim.lr: must be given once (given 1 and 2)",
    ]
    assert load_config(write(), ["lr=2", "optim.lr=2"]).optim.lr == 2


def test_section_given_as_override_is_laid_over_the_file_key_by_key(write):
    config = load_config(write(), ["train={epochs: 3}"])
    assert (config.train.epochs, config.train.global_batch) == (3, 64)


def test_key_of_the_top_level_wins_over_equal_names_below(write):
    config = load_config(write(), ["name=other"])
    assert (config.name, config.model.name) == ("other", "senet_nano")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "command line: epochs: must be key=value, as in train.epochs=3"),
        (
            "/data/pets",
            "command line: /data/pets: must be key=value; for the folder of the images write data.root=/data/pets",
        ),
        ("=3", "command line: =3: must be key=value, as in train.epochs=3"),
        ("epochs=x", "command line: train.epochs: must be a whole number (given x)"),
        ("epochs=", "command line: train.epochs: must be a whole number (given nothing)"),
        ("epochs=[1", "command line: train.epochs: must be a YAML value (given [1; put special characters in quotes)"),
        ("momentum=1", "command line: optim.momentum: must be less than 1 (given 1)"),
        ("input.mean=[1, 2]", "command line: input.mean[2]: must be given: a number"),
        (
            "label_smothing=0",
            "command line: label_smothing: unknown key (did you mean 'label_smoothing'? It belongs to train)",
        ),
        ("train.epoch=1", "command line: train.epoch: unknown key (did you mean 'epochs'?)"),
        ("optim.epochs=1", "command line: optim.epochs: unknown key here (it belongs to train)"),
        ("data.root.x=1", "command line: data.root: must be text or null (given data.root.x=1)"),
        (
            "area=[0.1, *x]",
            "command line: augmentation.area: must be a YAML value (given [0.1, *x]; put special characters in quotes)",
        ),
        ("lr=!rate 1", "command line: optim.lr: must be a plain value (given the tag !rate)"),
        ("schedule.knd=step", "command line: schedule.knd: unknown key (did you mean 'kind'?)"),
        ("frozen_epochs=4", "command line: train.frozen_epochs: must be less than train.epochs = 4 (given 4)"),
        ("optim={lr: 0.1, lr: 0.2}", "command line: optim.lr: must be given once (command line has it already)"),
        ("area=[0.1, !!int x]", "command line: augmentation.area[1]: must be what its tag says (given !!int x)"),
        ("lr=!!bool 3", "command line: optim.lr: must be what its tag says (given !!bool 3)"),
    ],
)
def test_wrong_override_is_named(write, override, message):
    assert mistakes(write(), [override]) == [message]


def test_short_name_of_several_keys_lists_them(write, monkeypatch):
    monkeypatch.setattr("pipeline.config.keys.all_keys", lambda: ("train.zz", "evaluate.zz"))
    assert mistakes(write(), ["zz=3"]) == ["command line: zz: ambiguous key (it may be train.zz or evaluate.zz)"]


def test_override_that_resembles_nothing_lists_the_top_level(write):
    assert mistakes(write(), ["qqqq=1"])[0].startswith(
        "command line: qqqq: unknown key (there are: name, seed, data, input, "
    )


def test_wrong_override_does_not_take_the_blame_for_the_file(write):
    text = SMALL.replace("  global_batch: 64\n", "")
    assert mistakes(write(text), ["epochs=0"]) == [
        "small.yaml:11: train.global_batch: must be given: a whole number",
        "command line: train.epochs: must be greater than 0 (given 0)",
    ]


def test_override_mends_what_is_wrong_in_the_file(write):
    assert load_config(write(SMALL.replace("epochs: 4", "epochs: 0")), ["epochs=3"]).train.epochs == 3
