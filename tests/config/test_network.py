"""A network has one name and one identity, however a recipe spells it; weight files carry the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipeline.config.identity import identity
from pipeline.config.network import ModelConfig, SEConfig
from pipeline.config.reader import load_config
from pipeline.ground.errors import UserError
from pipeline.networks.registry import SEBlock
from tests.conftest import REPOSITORY

DEMO = REPOSITORY / "configs" / "demo.yaml"


def model(*overrides: str) -> ModelConfig:
    return load_config(DEMO, [f"model.{override}" for override in overrides]).model


def model_identity(*overrides: str) -> dict[str, Any]:
    return identity(load_config(DEMO, [f"model.{override}" for override in overrides]), ["model"])


@pytest.mark.parametrize(
    ("given", "name", "se"),
    [
        (["name=resnet_nano"], "resnet_nano", "default"),
        (["name=resnet_nano", "se.reduction=16"], "se_resnet_nano", "default"),
        (["name=resnet_nano", "se.reduction=4"], "se_resnet_nano", SEConfig(reduction=4)),
        (["name=se_resnet_nano", "se.bias=false"], "se_resnet_nano", SEConfig(bias=False)),
        (["name=se_resnet_nano", "se=null"], "resnet_nano", "default"),
        (["name=resnet_nano", "se=null"], "resnet_nano", "default"),
        (["name=senet_nano", "se=null"], "senet_nano", None),
        (["name=senet_nano", "se.reduction=16"], "senet_nano", "default"),
        (["name=se_resnet_nano", "se.stages=[]"], "resnet_nano", "default"),
        (["name=se_resnet_nano", "se.stages=[4, 3, 2]"], "se_resnet_nano", "default"),
        (["name=se_resnet_nano", "se.stages=[3, 2]"], "se_resnet_nano", SEConfig(stages=(2, 3))),
    ],
)
def test_a_network_has_one_spelling(given: list[str], name: str, se: object) -> None:
    found = model(*given)
    assert (found.name, found.se) == (name, se)


def test_the_same_network_has_the_same_identity_and_another_block_another() -> None:
    assert model_identity("name=resnet_nano", "se.reduction=16") == model_identity("name=se_resnet_nano")
    assert model_identity("name=se_resnet_nano", "se=null") == model_identity("name=resnet_nano")
    variants = ["se.reduction=4", "se.bias=false", "se.stages=[2]", "se=null", "se=default"]
    found = [model_identity("name=se_resnet_nano", variant) for variant in variants]
    assert all(one != other for number, one in enumerate(found) for other in found[:number])


def test_an_image_size_that_a_network_cannot_take_is_refused() -> None:
    with pytest.raises(UserError) as raised:
        load_config(DEMO, ["model.name=bn_inception", "train.image_size_px=48"])
    assert str(raised.value) == (
        "command line: train.image_size_px: must be a multiple of 32 px for bn_inception (given 48)"
    )


def test_a_dropout_that_is_the_network_s_own_is_no_change() -> None:
    assert model_identity("name=senet_nano", "dropout=0.2") == model_identity("name=senet_nano", "dropout=null")
    assert model("name=senet_nano", "dropout=null").dropped_share == 0.2
    assert model("name=resnet_nano", "dropout=null").dropped_share == 0.0
    assert model_identity("name=resnet_nano", "dropout=0.2")["model.dropout"] == 0.2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["se.stages=[2, 5]"], "model.se.stages: senet_nano has the stages 2, 3, 4 (given 5)"),
        (["se.reducton=4"], "model.se.reducton: unknown key (did you mean 'reduction'?)"),
        (["se.squeeze=median"], "model.se.squeeze: must be one of average, max, none (given median)"),
        (
            ["stride_in_3x3=true"],
            "model.stride_in_3x3: only a network with strides in 1x1 convolutions has the choice (given with "
            "senet_nano)",
        ),
    ],
)
def test_a_network_that_does_not_exist_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        model("name=senet_nano", *given)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "given",
    [
        ["name=senet_nano"],
        ["name=senet_nano", "se=null"],
        ["name=resnet_nano", "stride_in_3x3=true"],
        ["name=se_resnet_nano", "se={reduction: 4, stages: [3], integration: pre}"],
    ],
)
def test_weight_files_describe_their_network(given: list[str]) -> None:
    written = model(*given)
    found = ModelConfig.described(written.metadata(), 10, "w")
    assert (found.name, found.se, found.stride_in_3x3) == (written.name, written.se, written.stride_in_3x3)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"model": "lenet"}, "Input should be 'senet154'"),
        ({"model": "senet_nano", "se": "{"}, "Expecting property name"),
        ({"model": "senet_nano", "se": '{"stages": [9]}'}, "Value error, se.stages: senet_nano has the stages 2, 3, 4"),
    ],
)
def test_metadata_of_no_network_are_refused(metadata: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=r"^w: metadata describes no network of this version: ") as raised:
        ModelConfig.described(metadata, 10, "w")
    assert said in str(raised.value)


def test_a_title_says_what_the_name_does_not() -> None:
    assert model("name=se_resnet_nano").title == "se_resnet_nano"
    assert model("name=resnet_nano", "se={reduction: 4, bias: false}").title == (
        "se_resnet_nano (reduction 4, bias false)"
    )
    assert model("name=senet_nano", "se=null").title == "senet_nano (no block)"
    assert model("name=resnet_nano", "stride_in_3x3=true").title == "resnet_nano (stride in the 3x3)"


def test_the_recipe_s_block_is_the_network_s() -> None:
    assert SEConfig().block == SEBlock()
    assert list(SEConfig.model_fields) == [field.name for field in dataclasses.fields(SEBlock)]
