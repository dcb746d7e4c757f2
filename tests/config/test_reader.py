from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import crop_plan
from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_names, builtin_plan
from pipeline.config.document import decode_document
from pipeline.config.problems import validated
from pipeline.config.reader import config_differences, load_config, load_members, read_run_config, write_run_config
from pipeline.config.section import Section
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line
from tests.config.pinned import RECIPES, named
from tests.config.written import SMALL, mistakes

REPOSITORY = Path(__file__).parents[2]


def test_what_a_recipe_leaves_out_has_its_default(write):
    config = load_config(write())
    assert (config.train.epochs, config.optim.momentum, config.seed) == (4, 0.9, 2017)


def test_all_mistakes_of_a_file_are_told_at_once_in_the_order_of_their_lines(write):
    path = write(
        """\
name: de mo
seed: -1
data:
  dataset: digts
  exclude: a.jpg
input:
  mean: [1, 2, x]
  std: [1, 2]
model:
  name: senet_nano
  num_clases: yes
  dropout: 1
  expect: {gmacs: .inf}
augmentation:
  area: [0.6, 1.0, 3]
  rotation_degrees: 90
optim:
  label_smoothing: 0.1
  warmup_epoch: 1
  lr: {a: 1}
schedule:
train:
  global_batch: [64]
  max_micro_batch: 24:00:00
  colour: red
evaluate:
  plans: []
loader: 5
checkpoint:
  every_steps: 0.5
tracking:
  wandb: of
  entity: 5
"""
    )
    assert mistakes(path, ["evaluate.batch=0"]) == [
        "small.yaml:1: name: must match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$' (given de mo)",
        "small.yaml:2: seed: must be greater than or equal to 0 (given -1)",
        "small.yaml:4: data.dataset: must be one of imagenet, folder, digits, cifar10, cifar100 (given digts; did you "
        "mean digits?)",
        "small.yaml:5: data.exclude: must be a list, each item text (given a.jpg)",
        "small.yaml:7: input.mean[2]: must be a number (given x)",
        "small.yaml:8: input.std[2]: must be given: a number",
        "small.yaml:11: model.num_clases: unknown key (did you mean 'num_classes'?)",
        "small.yaml:11: model.num_classes: must be a whole number or null (given yes, which is text in YAML 1.2)",
        "small.yaml:12: model.dropout: must be less than 1 (given 1)",
        "small.yaml:13: model.expect.parameters: must be given: a whole number",
        "small.yaml:13: model.expect.gmacs: must be a finite number (given .inf)",
        "small.yaml:15: augmentation.area: must have at most 2 items (given [0.6, 1.0, 3])",
        "small.yaml:16: augmentation.rotation_degrees: must be less than or equal to 45 (given 90)",
        "small.yaml:18: optim.label_smoothing: unknown key here (it belongs to train)",
        "small.yaml:19: optim.warmup_epoch: unknown key (did you mean 'warmup_epochs'? It belongs to schedule)",
        "small.yaml:20: optim.lr: must be a number (given {a: 1})",
        "small.yaml:21: schedule: must be a section with the keys kind, drop_epochs, drop_steps, drop_factor, "
        "patience, threshold, smallest_lr, max_drops, warmup_epochs, warmup_steps, warmup_lr (given nothing)",
        "small.yaml:22: train.epochs: must be given: a whole number",
        "small.yaml:23: train.global_batch: must be a whole number (given [64])",
        "small.yaml:24: train.max_micro_batch: must be a whole number (given 24:00:00)",
        "small.yaml:25: train.colour: unknown key (there are: epochs, frozen_epochs, global_batch, max_micro_batch, "
        "image_size_px, only_head, bn_statistics, label_smoothing, validate_every_epochs, validation)",
        "small.yaml:27: evaluate.plans: must have at least 1 item (given [])",
        "small.yaml:28: loader: must be a section with the keys backend, decoder, threads, prefetch_images, "
        "decode_batch, decode, fancy_upsampling, hw_decoder_load, preallocate_px (given 5)",
        "small.yaml:30: checkpoint.every_steps: must be a whole number or null (given 0.5)",
        "small.yaml:32: tracking.wandb: must be one of auto, online, offline, disabled (given of)",
        "small.yaml:33: tracking.entity: must be text or null (given 5; put it in quotes)",
        "command line: evaluate.batch: must be greater than 0 (given 0)",
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("epochs: 3", "epochs: unknown key here (it belongs to train)"),
        ("epoch: 3", "epoch: unknown key (did you mean 'epochs'? It belongs to train)"),
        ("sheduler: {}", "sheduler: unknown key (did you mean 'schedule'?)"),
        ("trian: {}", "trian: unknown key (did you mean 'train'?)"),
        ("extend: base.yaml", "extend: unknown key (did you mean 'extends'?)"),
        ("1: 2", "1: unknown key (there are: name, seed, data, input, model, augmentation, optim, schedule, train, "
         "freeze_bn, execution, engine, native, apex, deepspeed, evaluate, fuse, report, loader, checkpoint, tracking, "
         "resources)"),
    ],
)  # fmt: skip
def test_unknown_key_is_told_what_was_meant(write, key, message):
    assert mistakes(write(f"{SMALL}{key}\n")) == [f"small.yaml:17: {message}"]


def test_misspelt_key_still_has_its_value_checked(write):
    assert mistakes(write(SMALL.replace("epochs: 4", "epoch: 0"))) == [
        "small.yaml:12: train.epoch: unknown key (did you mean 'epochs'?)",
        "small.yaml:12: train.epochs: must be greater than 0 (given 0)",
    ]


def test_sections_that_do_not_agree_are_told_together_at_the_keys_they_name(write):
    text = SMALL.replace("frozen_epochs: 1", "frozen_epochs: 4").replace("drop_epochs: [2]", "drop_epochs: [2, 4]")
    text = text.replace("num_classes: 10", "num_classes: 11")
    assert mistakes(write(text)) == [
        "small.yaml:6: model.num_classes: digits has 10 classes (given 11)",
        "small.yaml:10: schedule.drop_epochs: must come before train.epochs = 4 (given [4.0]); write "
        "schedule.drop_epochs=[2.0], or when else the rate is to drop",
        "small.yaml:15: train.frozen_epochs: must be less than train.epochs = 4 (given 4)",
    ]


PLANS = """\
evaluate:
  plans:
    - center224
    - 5
    - name: x y
      crops: []
    - name: second
      crops:
        - {resize_px: 3, crop_px: 4}
        - {resize_px: 4, crop_px: 4, positions: [left], mirrored: true}
    - crops: {resize_px: 4, crop_px: 4}
"""


def test_crop_plan_written_out_wrongly_is_told_as_a_plan(write):
    neither, *others = mistakes(write(SMALL + PLANS))
    assert neither.startswith("small.yaml:20: evaluate.plans[1]: must be ")
    assert "a section with the keys name, averaging, crops (given 5" in neither
    assert others == [
        "small.yaml:21: evaluate.plans[2].name: must match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$' (given x y)",
        "small.yaml:22: evaluate.plans[2].crops: must have at least 1 item (given [])",
        "small.yaml:25: evaluate.plans[3].crops[0].crop_px: must not exceed resize_px (given crop_px 4, resize_px 3)",
        "small.yaml:26: evaluate.plans[3].crops[1].mirrored: unknown key (did you mean 'mirror'?)",
        "small.yaml:26: evaluate.plans[3].crops[1].positions[0]: must be one of center, top_left, top_right, "
        "bottom_left, bottom_right, whole (given left; did you mean top_left?)",
        "small.yaml:27: evaluate.plans[4].name: must be given: text",
        "small.yaml:27: evaluate.plans[4].crops: must be a list, each item a section with the keys resize_px, crop_px, "
        "squares, positions, pooling, dense, mirror, weight (given {resize_px: 4, crop_px: 4})",
    ]


def test_word_that_resembles_one_that_is_allowed_beside_null_is_told_it(write):
    assert mistakes(write(), ["validation={name: x, crops: [{resize_px: 8, dense: globl}]}"]) == [
        "command line: train.validation.crops[0].dense: must be one of global, sliding or null (given globl; did you "
        "mean global?)"
    ]


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        (
            "0.5",
            ["fuse.member_weights: must be a list, each item a number or null (given 0.5)"],
        ),
        ("{a: 1}", ["fuse.member_weights: must be a list, each item a number or null (given {a: 1})"]),
        (
            "[1, x, -1]",
            [
                "fuse.member_weights[1]: must be a number (given x)",
                "fuse.member_weights[2]: must be greater than 0 (given -1)",
            ],
        ),
    ],
)
def test_value_of_none_of_the_types_that_are_allowed_is_told_all_of_them(write, value, messages):
    assert mistakes(write(), [f"member_weights={value}"]) == [f"command line: {message}" for message in messages]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data.mean", "moved to input.mean in 0.2"),
        ("data.std", "moved to input.std in 0.2"),
        ("freeze_bn.last_epochs", "moved to train.frozen_epochs in 0.2"),
        ("apex.nhwc_batch_norm", "gone in 0.2"),
        ("apex.fused_sgd", "gone in 0.2, always true"),
        ("loader.prefetch", "loader.prefetch_images since 0.3, in images, not in micro-batches"),
    ],
)
def test_keys_of_the_version_before_are_told_where_they_went(key, message):
    class Data(Section):
        root: str = ""

    class FreezeBn(Section):
        scope: str = ""

    class Recipe(Section):
        data: Data = Data()
        freeze_bn: FreezeBn = FreezeBn()
        apex: FreezeBn = FreezeBn()
        loader: FreezeBn = FreezeBn()

    section, name = key.split(".")
    document = decode_document(f"{section}: {{{name}: 1}}\n{name}: 1".encode(), "old.yaml")
    with pytest.raises(UserError) as caught:
        validated(Recipe, document.root, document.problems)
    assert str(caught.value).splitlines() == [
        f"old.yaml:1: {key}: unknown key ({message})",
        f"old.yaml:2: {name}: unknown key ({message})",
    ]


def test_views_of_the_version_before_are_told_to_be_crops(write):
    plan = "{name: mine, views: [{resize_px: 4, crop_px: 5}]}"
    assert mistakes(write(f"{SMALL}evaluate:\n  plans: [{plan}]\n")) == [
        "small.yaml:18: evaluate.plans[0].views: unknown key (named 'crops' since 0.2)",
        "small.yaml:18: evaluate.plans[0].crops[0].crop_px: must not exceed resize_px (given crop_px 5, resize_px 4)",
    ]


def test_unknown_crop_plan_is_told_with_those_there_are(write):
    path = write(SMALL.replace("max_micro_batch: 32", "max_micro_batch: 32\n  validation: center"))
    assert mistakes(path) == [
        "small.yaml:15: train.validation: no built-in crop plan 'center' (there are: 10crop, 144crop, center224, "
        "center320, center320_sliding, dense, dense_sliding, multiscale; for other sizes center64 and the like)"
    ]


def test_extending_recipe_sets_key_by_key_and_replaces_lists_whole(write):
    write(SMALL.replace("drop_epochs: [2]", "drop_epochs: [1, 2, 3]"), "base/small.yaml")
    write("extends: ../base/small.yaml\ntrain: {epochs: 8}\nseed: 1\n", "middle/middle.yaml")
    config = load_config(write("extends: middle/middle.yaml\nschedule:\n  drop_epochs: [5]\n", "top.yaml"))
    assert (config.train.epochs, config.train.global_batch, config.seed) == (8, 64, 1)
    assert config.schedule.drop_epochs == (5.0,)


def test_null_in_an_extending_recipe_takes_an_optional_section_away(write):
    write(SMALL.replace("num_classes: 10", "num_classes: 10\n  expect: {parameters: 1, gmacs: 1}"), "base.yaml")
    path = write("extends: base.yaml\nmodel:\n  expect: null\n", "top.yaml")
    assert load_config(Path("base.yaml")).model.expect is not None
    assert load_config(path).model.expect is None


def test_mistake_is_told_at_the_file_that_has_it_own_file_first(write):
    base = SMALL.replace("lr: 0.1", "lr: -1").replace("global_batch: 64", "global_batchs: 64")
    write(base.replace("name: small", "name: [small]"), "configs/base.yaml")
    path = write("extends: base.yaml\nseed: x\ntrain:\n  epochs: 0\n", "configs/top.yaml")
    assert mistakes(path, ["momentum=1"]) == [
        "configs/top.yaml:2: seed: must be a whole number (given x)",
        "configs/top.yaml:4: train.epochs: must be greater than 0 (given 0)",
        "configs/base.yaml:1: name: must be text (given [small])",
        "configs/base.yaml:8: optim.lr: must be greater than 0 (given -1)",
        "configs/base.yaml:13: train.global_batchs: unknown key (did you mean 'global_batch'?)",
        "command line: optim.momentum: must be less than 1 (given 1)",
    ]


def test_mistake_that_the_extending_recipe_mends_is_none(write):
    write(SMALL.replace("lr: 0.1", "lr: -1"), "base.yaml")
    assert load_config(write("extends: base.yaml\noptim: {lr: 1}\n")).optim.lr == 1


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("a.yaml", "extends: must not lead back to a file that extends this one (a.yaml -> a.yaml)"),
        ("b.yaml", "extends: must not lead back to a file that extends this one (a.yaml -> b.yaml -> ./../x/a.yaml)"),
        ("smal.yaml", "extends: smal.yaml: no such file or directory (did you mean small.yaml?)"),
        ("none/a.yaml", "extends: none/a.yaml: no such file or directory"),
        (".", "extends: .: is a directory"),
        ("3", "extends: must be the path of another recipe (given 3)"),
        ("", "extends: must be the path of another recipe (given nothing)"),
        ("[small.yaml]", "extends: must be the path of another recipe (given [small.yaml])"),
    ],
)
def test_extends_that_leads_nowhere_is_refused(write, extends, message):
    write()
    write("extends: a.yaml\n", "b.yaml")
    lines = mistakes(write(f"name: a\nextends: {extends}\n", "a.yaml"))
    place = "b.yaml:1" if extends == "b.yaml" else "a.yaml:2"
    assert lines == [f"{place}: {message}".replace("./../x/", "")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("smal.yaml", "smal.yaml: no such file or directory (did you mean small.yaml?)"),
        ("small", "small: no such file or directory (did you mean small.yaml?)"),
        ("other.yaml", "other.yaml: no such file or directory (there are: small.yaml)"),
        ("bare/x.yaml", "bare/x.yaml: no such file or directory"),
        ("none/small.yaml", "none/small.yaml: no such file or directory"),
        ("bare", "bare: is a directory"),
    ],
)
def test_missing_recipe_is_told_with_those_near_by(write, path, message):
    write()
    Path("bare").mkdir()
    assert mistakes(Path(path)) == [message]


def test_unreadable_recipe_is_refused(write):
    write()
    Path("loop.yaml").symlink_to("loop.yaml")
    assert mistakes(Path("loop.yaml")) == ["loop.yaml: too many levels of symbolic links"]


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_run_config_is_read_back_as_it_was(tmp_path, path):
    config = load_members(path)[-1].config
    write_run_config(tmp_path / "run", config)
    assert read_run_config(tmp_path / "run") == config


def test_run_config_holds_awkward_values_unchanged(write):
    overrides = [
        "evaluate.weights=@a: 'b' #c",
        "project='null'",
        "entity=2018-01-01",
        "weight_decay=1e-17",
        "lr=0.1234567890123456",
    ]
    overrides += ["exclude=['true', '1e-4', '']", "root=null"]
    config = load_config(write(), [*overrides, "data.train=café ✓"])
    write_run_config(Path("run"), config)
    assert read_run_config(Path("run")) == config
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("\nloader:\n", "\nloader:\n  prefetch: 2\n"))
    assert read_run_config(Path("run")) == config, "a key of 0.2 that no result depended on"


def test_run_config_is_complete_and_plain(write):
    write_run_config(Path("run"), load_config(write()))
    text = Path("run/config.yaml").read_text()
    assert text.startswith("name: small\nseed: 2017\ndata:\n  dataset: digits\n  root: null\n  train: train\n")
    assert "  mean: [123.675, 116.28, 103.53]\n" in text
    assert "#" not in text
    assert "extends" not in text


def test_run_config_takes_overrides(write):
    write_run_config(Path("run"), load_config(write()))
    assert read_run_config(Path("run"), ["freeze_bn.from_checkpoint=runs/a"]).freeze_bn.from_checkpoint == "runs/a"


def test_folder_that_is_no_run_is_refused_with_the_way_to_make_one(tmp_path):
    command = re.escape(command_line("run"))
    with pytest.raises(UserError, match=rf"run/config\.yaml: must be there \(this is not a run directory; `{command}"):
        read_run_config(tmp_path / "run")


def test_run_directory_that_is_a_file_is_refused(write):
    config = load_config(write())
    with pytest.raises(
        UserError, match=r"^small\.yaml: must be a folder, or a path where one can be made \(given a file\)"
    ):
        write_run_config(Path("small.yaml"), config)


def test_equal_configs_do_not_differ(write):
    assert config_differences(load_config(write()), load_config(Path("small.yaml"), ["lr=0.1"])) == []


def test_differences_name_each_key_with_both_values(write):
    old = load_config(write())
    new = load_config(
        Path("small.yaml"),
        ["epochs=5", "flip=false", "area=[0.5, 1]", "evaluate.weights=a", "expect={parameters: 1, gmacs: 2}"],
    )
    assert config_differences(old, new) == [
        'model.expect: null -> {"parameters": 1, "gmacs": 2.0, "image_size_px": null, "layer_table": false}',
        "augmentation.area: [0.08, 1.0] -> [0.5, 1.0]",
        "augmentation.flip: true -> false",
        "train.epochs: 4 -> 5",
        'evaluate.weights: null -> "a"',
    ]


def test_differences_between_crop_plans_are_told_by_their_names(write):
    old = load_config(write(), ["plans=[center224, {name: own, crops: [{resize_px: 40, crop_px: 32}]}]"])
    new = load_config(
        Path("small.yaml"), ["plans=[{name: own, crops: [{resize_px: 36, crop_px: 32}]}, center224, 10crop]"]
    )
    renamed, changed = config_differences(old, new)
    assert renamed == "evaluate.plans: center224, own -> own, center224, 10crop"
    assert changed.startswith('evaluate.plans.own.crops: [{"resize_px": 40, "crop_px": 32')


def test_reading_a_recipe_does_not_import_torch():
    code = "import sys, pipeline.config.reader; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


PLAN = "name: mine\ncrops:\n  - {resize_px: 40, crop_px: 32}\n"


def test_crop_plans_in_files_are_found_beside_the_recipe_and_become_part_of_the_config(write, tmp_path, monkeypatch):
    write(PLAN, "plans/mine.yaml")
    write(PLAN.replace("mine", "other"), "elsewhere/other.yml")
    path = write(
        SMALL.replace("max_micro_batch: 32", "max_micro_batch: 32\n  validation: ../plans/mine.yaml")
        + "evaluate:\n  plans: [center224, ../plans/mine.yaml]\n",
        "recipes/small.yaml",
    )
    mine = CropPlan(name="mine", crops=(CropGroup(resize_px=40, crop_px=32),))
    config = load_config(path)
    assert config.evaluate.plans == (crop_plan.builtin_plan("center224"), mine)
    assert config.train.validation == mine
    # On the command line relative to where one is.
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(tmp_path / path, ["plans=[other.yml]"])
    assert config.evaluate.plans == (mine.model_copy(update={"name": "other"}),)
    write_run_config(tmp_path / "run", config)
    assert read_run_config(tmp_path / "run") == config


def test_mistakes_in_a_crop_plans_file_are_told_with_its_lines(write):
    write("name: mine\nname: yours\ncrops:\n  - resize_px: 40\n    crop_px: 48\n  - {reisze_px: 3}\n", "mine.yaml")
    assert mistakes(write(SMALL + "evaluate:\n  plans: [mine.yaml]\nseed: x\n")) == [
        "small.yaml:19: seed: must be a whole number (given x)",
        "mine.yaml:2: name: must be given once (mine.yaml:1 has it already)",
        "mine.yaml:5: evaluate.plans[0].crops[0].crop_px: must not exceed resize_px (given crop_px 48, resize_px 40)",
        "mine.yaml:6: evaluate.plans[0].crops[1].reisze_px: unknown key (did you mean 'resize_px'?)",
        "mine.yaml:6: evaluate.plans[0].crops[1].crop_px: must be given, or dense",
    ]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            "mime.yaml",
            "small.yaml:18: evaluate.plans[0]: mime.yaml: no such file or directory (did you mean mine.yaml?)",
        ),
        ("plans.yaml", "small.yaml:18: evaluate.plans[0]: plans.yaml: is a directory"),
        ("list.yaml", "list.yaml:1: a crop plan must be `key: value` lines (given [1, 2])"),
    ],
)
def test_a_crop_plans_file_that_is_none_is_refused(write, tmp_path, named, message):
    write(PLAN, "mine.yaml")
    write("[1, 2]\n", "list.yaml")
    (tmp_path / "plans.yaml").mkdir()
    assert mistakes(write(f"{SMALL}evaluate:\n  plans: [{named}]\n")) == [message]


@pytest.mark.parametrize("name", builtin_names())
def test_builtin_plans_are_files_like_a_users(write, name):
    text = (Path(crop_plan.__file__).parent / "crops" / f"{name}.yaml").read_text()
    write(text, "copy.yaml")
    path = write(f"{SMALL}evaluate:\n  plans: [copy.yaml]\n")
    assert load_config(path).evaluate.plans == (builtin_plan(name),)
