from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_names, builtin_plan
from pipeline.config.evaluation import EvaluateConfig
from pipeline.config.reader import load_config
from pipeline.config.schema import Config
from tests.config.written import mistakes


def test_config_is_frozen(write):
    config = load_config(write())
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 5


def test_every_section_forbids_unknown_keys_and_wrong_types():
    rules = {"strict": True, "frozen": True, "extra": "forbid", "allow_inf_nan": False}
    sections: list[Any] = [Config, *(field.annotation for field in Config.model_fields.values())]
    for section in sections:
        if hasattr(section, "model_config"):
            assert section.model_config == rules, section


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["root=x"], "data.root: the digits come with scikit-learn; leave data.root out"),
        (["dataset=folder"], "data.root: the folder with the images is needed for dataset 'folder'"),
        (
            ["dataset=folder", "root=x", "val_ground_truth=y"],
            "data.val_ground_truth: only dataset 'imagenet' has a ground-truth file",
        ),
        (["test=y"], "data.test: dataset 'digits' has no unlabelled test images"),
        (["dataset=cifar10", "root=x", "test=y"], "data.test: dataset 'cifar10' has no unlabelled test images"),
        (["dataset=cifar10", "root=x", "shards=y"], "data.shards: CIFAR's images live in memory; leave it out"),
        (["dataset=cifar100"], "data.root: the folder with the images is needed for dataset 'cifar100'"),
        (
            ["dataset=imagenet", "root=x"],
            "model.num_classes: ImageNet has 1000 classes (given 10); for other images write data.dataset=folder, and "
            "model.num_classes=null to have them counted",
        ),
        (["std=[1, 0, 1]"], "input.std: must be positive (given [1.0, 0.0, 1.0])"),
        (["area=[0, 1]"], "augmentation.area: must satisfy 0 < low <= high <= 1 (given [0.0, 1.0])"),
        (["area=[0.5, 0.4]"], "augmentation.area: must satisfy 0 < low <= high <= 1 (given [0.5, 0.4])"),
        (["area=[0.5, 1.1]"], "augmentation.area: must satisfy 0 < low <= high <= 1 (given [0.5, 1.1])"),
        (["crop=padded", "area=[0.5, 1]"], "augmentation.area: only crop 'resized' has it (given padded)"),
        (["padding_px=2"], "augmentation.padding_px: only crop 'padded' has it (given resized)"),
        (
            ["crop=padded", "padding=reflect"],
            "augmentation.padding: reflect is for images in memory, data.dataset cifar10 or cifar100 (given digits); "
            "use zero",
        ),
        (["aspect=[2, 1]"], "augmentation.aspect: must satisfy 0 < low <= high (given [2.0, 1.0])"),
        (["kind=cosine"], "schedule.drop_epochs: kind 'cosine' has no drops"),
        (["drop_epochs=[2, 1]"], "schedule.drop_epochs: must increase (given [2.0, 1.0])"),
        (["drop_epochs=[2, 2]"], "schedule.drop_epochs: must increase (given [2.0, 2.0])"),
        (["drop_epochs=[]", "drop_steps=[5, 3]"], "schedule.drop_steps: must increase (given [5, 3])"),
        (["kind=cosine", "drop_epochs=[]", "drop_steps=[5]"], "schedule.drop_steps: kind 'cosine' has no drops"),
        (["drop_steps=[5]"], "schedule.drop_steps: write this or drop_epochs, not both"),
        (
            ["warmup_epochs=1", "warmup_steps=5"],
            "schedule.warmup_steps: write this or warmup_epochs, not both",
        ),
        (
            ["warmup_epochs=0", "warmup_lr=0.01"],
            "schedule.warmup_lr: needs a length in warmup_epochs or warmup_steps",
        ),
        (
            ["drop_epochs=[1, 4]"],
            "schedule.drop_epochs: must come before train.epochs = 4 (given [4.0]); write schedule.drop_epochs=[1.0], "
            "or when else the rate is to drop",
        ),
        (
            ["schedule.kind=plateau", "drop_epochs=[2]"],
            "schedule.drop_epochs: kind 'plateau' drops when the validation loss says so; write drop_epochs=[]",
        ),
        (
            ["model.name=bn_inception_nano", "model.expect=", "plans=[center50]"],
            "evaluate.plans: must have crops of a multiple of 32 px for bn_inception_nano (given 50)",
        ),
        (
            ["model.name=bn_inception_nano", "model.expect=", "plans=[dense]"],
            "evaluate.plans: must have crops of a multiple of 32 px for bn_inception_nano (given whole images)",
        ),
        (
            ["model.name=vgg_nano", "model.expect=", "plans=[center320_sliding]"],
            "evaluate.plans: sliding windows need a network that averages its last map, not vgg_nano",
        ),
        (
            ["execution.sync_bn=true", "freeze_bn.statistics=recompute"],
            "freeze_bn.statistics: must be running with execution.sync_bn (given recompute)",
        ),
        (["patience=3"], "schedule.patience: only kind 'plateau' has it (given step)"),
        (
            ["schedule.kind=plateau", "drop_epochs=[]", "validate_every_epochs=2"],
            "train.validate_every_epochs: must be 1 with schedule.kind plateau, which looks at every epoch (given 2)",
        ),
        (
            ["schedule.kind=plateau", "drop_epochs=[]", "from_checkpoint=x"],
            "freeze_bn.from_checkpoint: not with schedule.kind plateau, whose last epoch follows from the run's own "
            "validations",
        ),
        (["warmup_epochs=4"], "schedule.warmup_epochs: must be less than train.epochs = 4 (given 4.0)"),
        (["train.image_size_px=2"], "train.image_size_px: must be greater than or equal to 3 (given 2)"),
        (["frozen_epochs=4"], "train.frozen_epochs: must be less than train.epochs = 4 (given 4)"),
        (["plans=[center224, center224]"], "evaluate.plans: each name once (given ['center224', 'center224'])"),
        (
            ["plans=[11crop]"],
            "evaluate.plans[0]: no built-in crop plan '11crop' (there are: 10crop, 144crop, center224, center320, "
            "center320_sliding, dense, dense_sliding, multiscale; for other sizes center64 and the like)",
        ),
        (
            ["validation={name: x, crops: [{resize_px: 8, crop_px: 8, positions: []}]}"],
            "train.validation.crops[0].positions: at least one, each once (given [])",
        ),
        (
            ["validation={name: x, crops: [{resize_px: 8, crop_px: 8, positions: [center, center]}]}"],
            "train.validation.crops[0].positions: at least one, each once (given ['center', 'center'])",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 9, crop_px: 8}, {resize_px: 9, crop_px: 8, mirror: true}]}]"],
            "evaluate.plans[0].crops[1]: no crop twice (center, 8 of 9 px, is the same as center of crops[0])",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, crop_px: 8, squares: [last], positions: [center, top_left]}]}]"],
            "evaluate.plans[0].crops[0]: no crop twice (last top_left, 8 of 8 px, is the same as last center of "
            "crops[0])",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, dense: global}, {resize_px: 8, dense: global}]}]"],
            "evaluate.plans[0].crops[1]: no crop twice (dense, all of 8 px, is the same as dense of crops[0])",
        ),
        (
            [
                "plans=[10crop, {name: x, crops: [{resize_px: 8, crop_px: 8}]}, "
                "{name: y, crops: [{resize_px: 8, crop_px: 8}]}]"
            ],
            "evaluate.plans: 'x' and 'y' are the same but for their names",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, crop_px: 9}]}]"],
            "evaluate.plans[0].crops[0].crop_px: must not exceed resize_px (given crop_px 9, resize_px 8)",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8}]}]"],
            "evaluate.plans[0].crops[0].crop_px: must be given, or dense",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, dense: global, crop_px: 8}]}]"],
            "evaluate.plans[0].crops[0].dense: sees the whole image; leave out crop_px, squares, positions and pooling",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, crop_px: 4, positions: [whole]}]}]"],
            "evaluate.plans[0].crops[0].positions: 'whole' is a whole square; say which in squares",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, crop_px: 4, squares: [last, last]}]}]"],
            "evaluate.plans[0].crops[0].squares: each once (given ['last', 'last'])",
        ),
        (
            ["plans=[{name: x, crops: [{resize_px: 8, crop_px: 4, weight: 0.0}]}]"],
            "evaluate.plans[0].crops[0].weight: must be greater than 0 (given 0.0)",
        ),
        (["split=test"], "evaluate.split: test needs the folder of the test images in data.test (given none)"),
        (
            ["resize_train_px=320"],
            "data.resize_train_px: only shards are written anew; name a folder in data.shards for them",
        ),
        (["nesterov=true", "momentum=0"], "optim.nesterov: needs a momentum (given optim.momentum 0)"),
        (["dropout=.nan"], "model.dropout: must be a finite number (given .nan)"),
        (["std=[1, .inf, 1]"], "input.std[1]: must be a finite number (given .inf)"),
        (["tags=[good, '']"], "tracking.tags: must be of 1 to 64 characters each (given '')"),
        (["drop_epochs=[0]"], "schedule.drop_epochs[0]: must be greater than 0 (given 0)"),
    ],
)
def test_values_that_do_not_go_together_are_refused(write, overrides, message):
    lines = mistakes(write(), overrides)
    assert [line.partition(": ")[2] for line in lines] == [message]


def test_members_are_not_chosen_on_test_images(write):
    found = mistakes(write(), ["split=test", "selection=greedy"])
    assert any("fuse.selection: test images have no labels to choose on; it must be none" in line for line in found)
    assert not any("fuse.selection" in line for line in mistakes(write(), ["split=test"]))


def test_plan_is_found_by_name_or_taken_as_written():
    written = CropPlan(name="mine", crops=(CropGroup(resize_px=8, crop_px=8),))
    read = EvaluateConfig.model_validate({"plans": [written, "10crop"]})
    assert read.plans == (written, builtin_plan("10crop"))


def test_builtin_plans_are_those_of_the_literature():
    squares, corners = ("first", "middle", "last"), ("top_left", "top_right", "bottom_left", "bottom_right", "center")
    assert {
        name: [group.model_dump(exclude_defaults=True) for group in builtin_plan(name).crops]
        for name in builtin_names()
    } == {
        "center224": [{"resize_px": 256, "crop_px": 224}],
        "center320": [{"resize_px": 320, "crop_px": 320}],
        "center320_sliding": [{"resize_px": 320, "crop_px": 320, "pooling": "sliding"}],
        "10crop": [{"resize_px": 256, "crop_px": 224, "positions": corners, "mirror": True}],
        "144crop": [
            {"resize_px": px, "crop_px": 224, "squares": squares, "positions": (*corners, "whole"), "mirror": True}
            for px in (256, 288, 320, 352)
        ],
        "multiscale": [
            {"resize_px": px, "crop_px": px, "squares": squares, "mirror": True} for px in (224, 256, 288, 320, 352)
        ],
        "dense": [{"resize_px": 320, "dense": "global", "mirror": True}],
        "dense_sliding": [{"resize_px": 320, "dense": "sliding", "mirror": True}],
    }
    assert all(builtin_plan(name).averaging == "probabilities" for name in builtin_names())


def test_train_stage_ends_where_the_batch_norms_freeze(write):
    assert load_config(write(), ["epochs=10", "frozen_epochs=3"]).train_stage_epochs == 7
