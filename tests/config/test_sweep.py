"""A recipe with a sweep is expanded to the recipes of its members."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.reader import load_config, load_members, read_run_config
from pipeline.config.sweep import is_member, members_of, write_sweep
from pipeline.ground.errors import UserError
from tests.conftest import REPOSITORY

BASE = f"extends: {REPOSITORY}/configs/demo.yaml\nname: try\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of two times two members."""
    return write(tmp_path, "sweep:\n  model.se.reduction: [8, 16]\n  seed: [1, 2]\n")


def write(folder: Path, text: str, name: str = "try.yaml") -> Path:
    (folder / name).write_text(BASE + text)
    return folder / name


def names(path: Path, *overrides: str) -> list[str]:
    return [member.name for member in load_members(path, overrides)]


def mistakes(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as raised:
        load_members(path, overrides)
    return str(raised.value).replace(f"{path}:", "try.yaml:").splitlines()


def test_a_sweep_has_a_member_for_each_combination_the_first_key_s_values_first(recipe: Path) -> None:
    members = load_members(recipe)
    assert [member.name for member in members] == [
        "reduction8-seed1",
        "reduction16-seed1",
        "reduction8-seed2",
        "reduction16-seed2",
    ]
    last = members[-1].config
    block = last.model.block
    assert block is not None
    assert (block.reduction, last.seed, last.name) == (16, 2, "try-reduction16-seed2")
    assert members[1].values == {"model.se.reduction": 16, "seed": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            "model.se: [null, {integration: pre}, {squeeze: max, bias: false}]",
            ["se_none", "integration_pre", "squeeze_max-bias_false"],
        ),
        ("model.se.stages: [[2], [2, 3]]", ["stages2", "stages2_3"]),
        ("optim.lr: [0.1, 1e-3]", ["lr0.1", "lr0.001"]),
        ("augmentation.flip: [true, false]", ["flip_true", "flip_false"]),
        ("evaluate.weights: [a/b.safetensors, null]", ["weights_a_b.safetensors", "weights_none"]),
        ("{train.label_smoothing: [0.1], seed: [3]}", ["label_smoothing0.1-seed3"]),
        (
            "{evaluate.weights: [a, b], model.weights: [c]}",
            ["evaluate.weights_a-model.weights_c", "evaluate.weights_b-model.weights_c"],
        ),
    ],
)
def test_members_are_named_by_their_values(tmp_path: Path, values: str, expected: list[str]) -> None:
    assert names(write(tmp_path, f"sweep:\n  {values}\n")) == expected


def test_a_key_on_the_command_line_has_that_value_alone_and_members_keep_their_names(recipe: Path) -> None:
    assert names(recipe, "seed=1") == ["reduction8-seed1", "reduction16-seed1"]
    assert set(names(recipe, "seed=1")) < set(names(recipe))
    assert {member.config.seed for member in load_members(recipe, ["seed=5"])} == {5}
    assert names(recipe, "seed=5", "reduction=4") == ["reduction4-seed5"]


def test_a_sweep_can_be_made_changed_and_left_out_on_the_command_line(recipe: Path) -> None:
    assert names(recipe, "sweep.seed=[7]") == ["reduction8-seed7", "reduction16-seed7"]
    assert names(recipe, "sweep.lr=[0.1, 0.2]", "seed=1", "reduction=8") == [
        "reduction8-seed1-lr0.1",
        "reduction8-seed1-lr0.2",
    ]
    assert names(recipe, "sweep=null") == [""]
    assert load_config(recipe, ["sweep=null"]).seed == 2017


def test_a_sweep_takes_nothing_from_that_of_the_recipe_it_extends(recipe: Path) -> None:
    other = recipe.with_name("other.yaml")
    other.write_text("extends: try.yaml\nsweep: {seed: [4]}\n")
    assert names(other) == ["seed4"]
    other.write_text("extends: try.yaml\n")
    assert names(other) == names(recipe)


def test_a_recipe_s_own_value_counts_and_not_the_sweep_that_it_extends(recipe: Path) -> None:
    other = recipe.with_name("other.yaml")
    other.write_text("extends: try.yaml\nmodel: {se: {reduction: 4}}\n")
    assert names(other) == ["seed1", "seed2"]
    assert {member.config.model.block.reduction for member in load_members(other)} == {4}
    other.write_text("extends: try.yaml\nmodel: {se: null}\n")
    assert names(other) == ["seed1", "seed2"]
    assert names(recipe, "model.se=null") == ["seed1", "seed2"]


def test_a_part_of_what_is_swept_as_a_whole_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "sweep:\n  model.se: [{integration: pre}, {integration: post}]\n")
    wrong = (
        "model.se: must not be set in part where sweep.model.se (try.yaml:4) sets it whole; write the sweep anew, or "
        "sweep=null"
    )
    for override in ("model.se.reduction=8", "model.se={reduction: 8}"):
        assert mistakes(path, override) == [f"command line: {wrong}"]
    other = path.with_name("other.yaml")
    other.write_text("extends: try.yaml\nmodel:\n  se:\n    reduction: 8\n")
    with pytest.raises(UserError) as raised:
        load_members(other)
    assert str(raised.value).replace(f"{tmp_path}/", "") == f"other.yaml:3: {wrong}"
    assert names(path, "sweep=null", "model.se.reduction=8") == [""]


def test_files_of_crop_plans_may_be_swept(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("name: mine\ncrops:\n- {resize_px: 32, crop_px: 32}\n")
    path = write(tmp_path, "sweep:\n  evaluate.plans: [[plan.yaml], [center32, plan.yaml]]\n")
    members = load_members(path)
    assert [member.name for member in members] == ["plans_mine", "plans_center32_mine"]
    assert [plan.name for plan in members[1].config.evaluate.plans] == ["center32", "mine"]
    assert names(path, f"sweep.evaluate.plans=[[{tmp_path}/plan.yaml]]") == ["plans_mine"]
    assert names(write(tmp_path, "sweep: {train.validation: [plan.yaml, center32]}\n")) == [
        "validation_mine",
        "validation_center32",
    ]


def test_mistakes_in_a_sweep_are_told_with_their_places_all_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, "sweep:\n  seed: 3\n  optim.weightdecay: [1]\n  name: [a]\n  optim.lr: []\n  train.epochs: [4, 0]\n"
    )
    assert mistakes(path) == [
        "try.yaml:4: sweep.seed: must be a list of values, at least one (given 3)",
        "try.yaml:5: sweep.optim.weightdecay: unknown key (did you mean 'weight_decay'?)",
        "try.yaml:6: sweep.name: the members get names of their own",
        "try.yaml:7: sweep.optim.lr: must be a list of values, at least one (given [])",
        "try.yaml:8: train.epochs: must be greater than 0 (given 0)",
    ]
    assert mistakes(write(tmp_path, "sweep: [1]\n")) == [
        "try.yaml:3: sweep: must be lists of values by key (given [1])"
    ]
    assert mistakes(write(tmp_path, ""), "sweep.seed=[1]", "seed=2") == [
        "command line: seed: must be given once (given alone and as sweep.seed)"
    ]
    assert mistakes(write(tmp_path, ""), "sweep.optim=[{lr: 0.1}]", "sweep.optim.lr=[0.3, 0.4]") == [
        "command line: sweep.optim.lr: must be given once (sweep.optim has it already)"
    ]


def test_a_forgotten_space_in_a_swept_value_is_the_only_mistake(tmp_path: Path) -> None:
    said = "command line: model.se.integration:pre: unknown key (a colon needs a space behind it: integration: pre)"
    assert mistakes(write(tmp_path, ""), "sweep.model.se=[null, {integration:pre}]") == [said]
    assert mistakes(write(tmp_path, ""), "model.se={integration:pre}") == [said]


def test_members_whose_results_are_equal_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "sweep:\n  model.se: [{reduction: 16}, {excitation: sigmoid}]\n")
    assert mistakes(path) == [
        "sweep: reduction16 and excitation_sigmoid are the same: no result depends on what they differ in; leave one "
        "of them out"
    ]
    assert "threads1 and threads2 are the same" in mistakes(write(tmp_path, "sweep: {loader.threads: [1, 2]}\n"))[0]
    assert mistakes(write(tmp_path, "sweep: {seed: [1, 1]}\n")) == [
        "sweep: two members would share the directory seed1; name each value once"
    ]


def test_a_single_run_is_not_read_from_a_sweep(recipe: Path) -> None:
    with pytest.raises(
        UserError, match=r"a single run is wanted here, and this recipe is a sweep of 4; add sweep=null"
    ):
        load_config(recipe)


def test_the_directory_of_a_sweep_knows_its_members_in_order(recipe: Path) -> None:
    folder = recipe.parent / "runs"
    folder.mkdir()
    write_sweep(folder, load_members(recipe)[2:])
    write_sweep(folder, load_members(recipe)[:3])
    assert [run.name for run in members_of(folder)] == [
        "reduction8-seed2",
        "reduction16-seed2",
        "reduction8-seed1",
        "reduction16-seed1",
    ]
    assert members_of(folder)[folder / "reduction8-seed1"] == {"model.se.reduction": 8, "seed": 1}
    assert is_member(folder / "reduction8-seed2")
    assert not is_member(folder / "other")
    with pytest.raises(
        UserError, match=r"the directory of a sweep, .* name one of its 4, as \S*/runs/reduction8-seed2"
    ):
        read_run_config(folder)
