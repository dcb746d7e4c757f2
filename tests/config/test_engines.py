"""Which engine a recipe chooses, and options that the chosen one would ignore."""

from __future__ import annotations

import pytest

from pipeline.config.reader import config_differences, load_config, write_run_config
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.config.written import SMALL, mistakes


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["zero_stage=2"],
            ["deepspeed.zero_stage: engine is 'native', which ignores it; set engine: deepspeed or leave it out"],
        ),
        (
            ["engine=deepspeed", "apex={}", "bucket_mb=5"],
            [
                "native.bucket_mb: engine is 'deepspeed', which ignores it; set engine: native or leave it out",
                "apex: engine is 'deepspeed', which ignores it; set engine: apex or leave it out",
            ],
        ),
        (["deepspeed={}"], ["deepspeed: engine is 'native', which ignores it; set engine: deepspeed or leave it out"]),
        (["engine=deepspeed", "zero_stage=3"], ["deepspeed.zero_stage: must be one of 0, 1, 2 (given 3)"]),
        (
            ["engine=deepspede"],
            ["engine: must be one of native, apex, deepspeed (given deepspede; did you mean deepspeed?)"],
        ),
    ],
)
def test_options_of_another_engine_are_refused(write, overrides, messages):
    lines = mistakes(write(), overrides)
    assert [line.partition(": ")[2] for line in lines] == messages


def test_cuda_graphs_and_what_they_cannot_hold_are_refused(write):
    lines = mistakes(write(), ["cuda_graphs=true", "sync_bn=true"])
    assert [line.partition(": ")[2] for line in lines] == [
        "native.cuda_graphs: no graph can hold what execution.sync_bn sends between processes in every batch norm; set "
        "one of them to false (given true for both)"
    ]
    assert load_config(write(), ["cuda_graphs=true"]).engine_in_words == "native (cuda_graphs True)"
    assert load_config(write(), ["engine=deepspeed", "sync_bn=true"]).native is None


def test_mistake_names_the_line_of_the_option(write):
    lines = mistakes(write(f"{SMALL}deepspeed:\n  zero_stage: 1\n"))
    assert lines == [
        "small.yaml:18: deepspeed.zero_stage: engine is 'native', which ignores it; "
        "set engine: deepspeed or leave it out"
    ]


def test_resolved_recipe_holds_the_section_of_its_engine_alone(write, tmp_path):
    config = load_config(write(), ["engine=deepspeed"])
    write_run_config(tmp_path / "run", config)
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "engine: deepspeed\ndeepspeed:\n  zero_stage: 1\n" in text
    assert "native" not in text
    assert "apex" not in text
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_engine_is_no_part_of_any_key_and_shown_as_a_difference(write, tmp_path):
    native, other = load_config(write()), load_config(write(), ["engine=deepspeed", "zero_stage=2"])
    keys = [{stage.key for stage in place_stages(c, tmp_path, STAGES).values()} for c in (native, other)]
    assert keys[0] == keys[1]
    differences = config_differences(native, other)
    assert 'engine: "native" -> "deepspeed"' in differences
    assert 'deepspeed: null -> {"zero_stage": 2}' in differences


@pytest.mark.parametrize("option", ["sync_bn=true", "gradient_compression=bfloat16"])
def test_what_changes_a_result_is_in_the_key_of_the_training(write, tmp_path, option):
    plain, changed = (place_stages(load_config(write(), o), tmp_path, STAGES) for o in ([], [option]))
    assert plain["train"].key != changed["train"].key
    assert plain["build"].key == changed["build"].key


def test_engine_in_words_names_what_is_not_the_default(write):
    assert load_config(write()).engine_in_words == "native"
    assert load_config(write(), ["engine=deepspeed"]).engine_in_words == "deepspeed"
    assert load_config(write(), ["engine=deepspeed", "zero_stage=2"]).engine_in_words == "deepspeed (zero_stage 2)"
