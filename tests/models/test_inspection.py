from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.models.inspection import differences_from_authors, observe_layers
from pipeline.models.senet import SENet
from pipeline.networks.authors_table import module_name, read_authors_table
from pipeline.networks.spec import SPECS, layer_table


def _senet154(dropout: float = 0.2) -> SENet:
    with torch.device("meta"):
        return create_model("senet154", 1000, dropout=dropout)


def test_senet154_is_the_authors_network_in_every_row() -> None:
    assert differences_from_authors(_senet154()) == []


def test_every_row_of_the_table_was_compared() -> None:
    names = [module_name(row.name) for row in read_authors_table()]
    assert len(names) == len(set(names)) == 361
    assert set(observe_layers(_senet154(), 224)) == set(names)


def _no_ceil(model: SENet) -> None:
    model.pool0.ceil_mode = False


def _padded_pool(model: SENet) -> None:
    model.pool0 = nn.MaxPool2d(3, 2, padding=1)


def _stride_on_the_1x1(model: SENet) -> None:
    model.layer2[0].conv1.stride, model.layer2[0].conv2.stride = (2, 2), (1, 1)


def _gate_without_bias(model: SENet) -> None:
    model.layer3[35].se_module.fc2.bias = None


def _narrow_projection(model: SENet) -> None:
    model.layer4[0].downsample[0] = nn.Conv2d(1024, 2048, 1, stride=2, bias=False, device="meta")


def _fewer_groups(model: SENet) -> None:
    model.layer1[1].conv2 = nn.Conv2d(128, 256, 3, padding=1, groups=32, bias=False, device="meta")


def _one_block_less(model: SENet) -> None:
    del model.layer3[-1]


def _one_block_more(model: SENet) -> None:
    block = model.layer4[2].__class__
    model.layer4.append(block(2048, 2048, stride=1, groups=64, reduction=16, bn_momentum=0.1))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (_no_ceil, "pool0: kind is max_pool, in the authors' table (pool1/3x3_s2) max_pool_ceil"),
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
def test_a_changed_layer_is_named(change: Callable[[SENet], None], difference: str) -> None:
    model = _senet154()
    with torch.device("meta"):
        change(model)
    assert difference in differences_from_authors(model)


def test_another_dropout_is_named() -> None:
    (difference,) = differences_from_authors(_senet154(dropout=0.5))
    assert difference == "dropout: kind is dropout_0.5, in the authors' table (pool5/dropout_7x7_s1) dropout_0.2"


@pytest.mark.parametrize("image_size_px", [160, 224, 299, 331])
@pytest.mark.parametrize("name", SPECS)
def test_computed_table_is_what_the_network_does(name: str, image_size_px: int) -> None:
    with torch.device("meta"):
        observed = observe_layers(create_model(name, 7), image_size_px)
    table = {
        {"pool5": "avg_pool", "dropout": "dropout"}.get(layer.name) or module_name(layer.name): layer
        for layer in layer_table(SPECS[name], 7, image_size_px)
    }
    assert observed.keys() == table.keys()
    for module, layer in table.items():
        for fact in ("in_channels", "out_channels", "stride", "padding", "groups", "bias", "out_size", "macs"):
            assert getattr(observed[module], fact) == getattr(layer, fact), f"{module}: {fact}"


def test_observing_leaves_the_network_as_it_was() -> None:
    model = _senet154()
    observe_layers(model, 224)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
