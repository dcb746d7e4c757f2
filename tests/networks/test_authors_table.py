from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.tracing import trace_layers
from pipeline.networks.authors_table import differences_from_authors, module_name, prototxt_name, read_authors_table
from pipeline.networks.layers import layer_table


def _senet154(dropout: float = 0.2) -> Network:
    with torch.device("meta"):
        return create_model("senet154", 1000, dropout=dropout)


def test_senet154_is_the_authors_network_in_every_row() -> None:
    assert differences_from_authors(layer_table("senet154")) == []


def test_the_order_of_the_layers_is_the_authors() -> None:
    names = [module_name(row.name) for row in read_authors_table()]
    assert len(names) == len(set(names)) == 361
    assert [layer.name for layer in layer_table("senet154") if layer.name in names] == names


def test_a_row_that_the_network_lacks_is_missed() -> None:
    layers = layer_table("senet154")
    for name in ("layer0.conv1", "pool0", "layer1.0.se_module.pool", "layer3.35.relu", "last_linear"):
        (difference,) = differences_from_authors([layer for layer in layers if layer.name != name])
        assert difference.startswith(f"{name}: missing")


def test_prototxt_s_names_lead_to_modules_and_back() -> None:
    layers = {layer.name: layer for layer in layer_table("senet154")}
    for row in read_authors_table():
        if row.kind in ("conv", "fc"):
            assert prototxt_name(layers[module_name(row.name)]) == row.name


def _no_ceil(model: Any) -> None:
    model.pool0.ceil_mode = False


def _padded_pool(model: Any) -> None:
    model.pool0 = nn.MaxPool2d(3, 2, padding=1)


def _stride_on_the_1x1(model: Any) -> None:
    model.layer2[0].conv1.stride, model.layer2[0].conv2.stride = (2, 2), (1, 1)


def _gate_without_bias(model: Any) -> None:
    model.layer3[35].se_module.fc2.bias = None


def _narrow_projection(model: Any) -> None:
    model.layer4[0].downsample[0] = nn.Conv2d(1024, 2048, 1, stride=2, bias=False, device="meta")


def _fewer_groups(model: Any) -> None:
    model.layer1[1].conv2 = nn.Conv2d(128, 256, 3, padding=1, groups=32, bias=False, device="meta")


def _one_block_less(model: Any) -> None:
    del model.layer3[-1]


def _one_block_more(model: Any) -> None:
    model.layer4.append(copy.deepcopy(model.layer4[2]))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (_no_ceil, "pool0: kind is max_pool_floor, in the authors' table (pool1/3x3_s2) max_pool_ceil"),
        (_padded_pool, "pool0: padding is 1, in the authors' table (pool1/3x3_s2) 0"),
        (_stride_on_the_1x1, "layer2.0.conv1: stride is 2, in the authors' table (conv3_1_1x1_reduce) 1"),
        (_stride_on_the_1x1, "layer2.0.conv1: out_size is 28, in the authors' table (conv3_1_1x1_reduce) 56"),
        (_gate_without_bias, "layer3.35.se_module.fc2: bias is False, in the authors' table (conv4_36_1x1_up) True"),
        (_narrow_projection, "layer4.0.downsample.0: kernel is 1, in the authors' table (conv5_1_1x1_proj) 3"),
        (_fewer_groups, "layer1.1.conv2: groups is 32, in the authors' table (conv2_2_3x3) 64"),
        (_one_block_less, "layer3.35.conv1: missing (conv4_36_1x1_reduce of the authors' table)"),
        (_one_block_more, "layer4.3.conv1: not in the authors' table"),
    ],
)
def test_a_changed_layer_is_named(change: Callable[[Network], None], difference: str) -> None:
    model = _senet154()
    with torch.device("meta"):
        change(model)
    assert difference in differences_from_authors(trace_layers(model, 224))


def test_another_dropout_is_named() -> None:
    (difference,) = differences_from_authors(trace_layers(_senet154(dropout=0.5), 224))
    assert difference == "dropout: kind is dropout_0.5, in the authors' table (pool5/dropout_7x7_s1) dropout_0.2"
