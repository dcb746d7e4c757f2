from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pipeline.models.senet import SENet
from pipeline.networks.authors_table import module_name, read_authors_table
from pipeline.networks.spec import (
    SPECS,
    SENetSpec,
    activation_bytes,
    count_buffers,
    count_macs,
    count_parameters,
    layer_table,
)

SENET154 = SPECS["senet154"]
FACTS = ("in_channels", "out_channels", "kernel", "stride", "padding", "groups", "bias", "out_size", "inputs")


def test_layer_table_is_the_authors_in_every_row_and_column_but_the_last_pooling() -> None:
    ours, authors = layer_table(SENET154, 1000, 224), read_authors_table()
    assert len(ours) == len(authors) == 361
    for layer, row in zip(ours[:-3], authors[:-3], strict=True):
        assert (layer.name, layer.kind) == (row.name, row.kind)
        for fact in FACTS:
            if getattr(row, fact) not in (None, ""):
                assert getattr(layer, fact) == getattr(row, fact), f"{row.name}: {fact}"
    assert [layer.kind for layer in ours[-3:]] == ["global_avg_pool", "dropout", "fc"]
    classifier = ours[-1]
    assert (classifier.in_channels, classifier.out_channels, classifier.bias) == (2048, 1000, True)


def test_senet154_has_the_published_numbers_of_parameters_and_statistics() -> None:
    assert count_parameters(SENET154, 1000) == 115_088_984
    assert count_buffers(SENET154, 1000) == 247_552


def test_parameters_of_the_parts_are_the_published_ones() -> None:
    layers = layer_table(SENET154, 1000, 224)
    gates = sum(layer.parameters for layer in layers if layer.kind == "conv" and layer.bias)
    weights = [layer for layer in layers if layer.name.endswith("_proj")]
    assert gates == 6_629_040
    assert sum(layer.parameters - 2 * (layer.out_channels or 0) for layer in weights) == 24_805_376


def test_multiply_adds_at_224_are_exact() -> None:
    assert count_macs(SENET154, 1000, 224) == 20_688_363_520


@pytest.mark.parametrize(
    ("image_size_px", "gmacs"),
    [(160, 10.56), (192, 15.20), (256, 27.02), (288, 34.19), (299, 38.33), (320, 42.21), (331, 46.79), (352, 51.07)],
)
def test_multiply_adds_at_other_sizes_are_the_known_ones(image_size_px: int, gmacs: float) -> None:
    assert round(count_macs(SENET154, 1000, image_size_px) / 1e9, 2) == gmacs


@pytest.mark.parametrize("name", SPECS)
def test_counts_are_those_of_the_torch_network(name: str) -> None:
    with torch.device("meta"):
        model = SENet(SPECS[name], 7)
    statistics = [buffer for name, buffer in model.named_buffers() if not name.endswith("num_batches_tracked")]
    assert count_parameters(SPECS[name], 7) == sum(parameter.numel() for parameter in model.parameters())
    assert count_buffers(SPECS[name], 7) == sum(buffer.numel() for buffer in statistics)


def test_parameters_of_each_layer_are_those_of_its_modules() -> None:
    with torch.device("meta"):
        model = SENet(SENET154, 1000)
    for layer in layer_table(SENET154, 1000, 224):
        if layer.kind in ("conv", "fc"):
            module = model.get_submodule(module_name(layer.name))
            batch_norm = 0 if layer.bias else 2 * (layer.out_channels or 0)
            assert layer.parameters == sum(p.numel() for p in module.parameters()) + batch_norm, layer.name


def test_stages_partition_the_layers_in_order() -> None:
    stages = list(dict.fromkeys(layer.stage for layer in layer_table(SENET154, 1000, 224)))
    assert stages == ["conv1", "pool1", "conv2", "conv3", "conv4", "conv5", "classifier"]


def test_senet154_keeps_the_measured_memory_an_image() -> None:
    assert activation_bytes(SENET154, 224, 4) / 1e6 == pytest.approx(362, rel=0.01)
    assert activation_bytes(SENET154, 224, 2) / 1e6 == pytest.approx(183, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "image_size_px"),
    [(SPECS["senet_nano"], 32), (SENetSpec("wide", (8, 8, 16), (32, 64, 128, 256), (1, 2, 1, 1), 8, 8, 65), 65)],
    ids=["senet_nano at 32", "four stages at an odd size"],
)
def test_activation_memory_is_what_pytorch_keeps_for_backward(spec: SENetSpec, image_size_px: int) -> None:
    model = SENet(spec, 10)
    # What does not grow with the batch, such as weights, drops out of the difference.
    measured = _saved_bytes(model, 5, image_size_px) - _saved_bytes(model, 4, image_size_px)
    assert activation_bytes(spec, image_size_px, 4) == pytest.approx(measured, rel=0.005)


def test_layers_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SENET154.groups = 1  # type: ignore[misc]


def _saved_bytes(model: nn.Module, batch: int, image_size_px: int) -> int:
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    images = torch.zeros(batch, 3, image_size_px, image_size_px)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = model(images)
    assert scores.shape == (batch, 10)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
