from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.tracing import trace_layers
from pipeline.networks.layers import TRACED_CLASSES, Cost, layer_table
from pipeline.networks.registry import NETWORKS


def on_meta(name: str, num_classes: int = TRACED_CLASSES) -> Network:
    with torch.device("meta"):
        return create_model(name, num_classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_are_what_the_networks_do(name: str) -> None:
    """`python -m pipeline.models.tracing` makes them again."""
    assert trace_layers(on_meta(name), NETWORKS[name].image_size_px) == layer_table(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_those_of_the_network(name: str) -> None:
    model, cost = on_meta(name), Cost.of(layer_table(name))
    statistics = [buffer for name, buffer in model.named_buffers() if not name.endswith("num_batches_tracked")]
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.buffers == sum(buffer.numel() for buffer in statistics)


@pytest.mark.parametrize("image_size_px", [160, 224, 320])
def test_a_resized_table_is_what_the_network_does_at_that_size(image_size_px: int) -> None:
    traced = trace_layers(on_meta("senet154", 7), image_size_px)
    assert layer_table("senet154", 7, image_size_px) == traced


@pytest.mark.parametrize("image_size_px", [299, 331])
def test_at_odd_sizes_only_the_images_that_are_kept_are_rounded(image_size_px: int) -> None:
    traced, resized = trace_layers(on_meta("senet154"), image_size_px), layer_table("senet154", 1000, image_size_px)
    assert resized[1:] == traced[1:]
    assert resized[0].saved_values == pytest.approx(traced[0].saved_values, rel=0.01)


def test_tracing_leaves_the_network_as_it_was() -> None:
    model = on_meta("senet_nano").eval()
    trace_layers(model, 32)
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("image_size_px", [32, 65])
def test_activation_memory_is_what_pytorch_keeps_for_backward(image_size_px: int) -> None:
    model = create_model("senet_nano", 10)
    # What does not grow with the batch, such as weights, drops out of the difference.
    measured = _saved_bytes(model, 5, image_size_px) - _saved_bytes(model, 4, image_size_px)
    cost = Cost.of(layer_table("senet_nano", 10, image_size_px))
    assert cost.activation_bytes_float32 == pytest.approx(measured, rel=0.005)


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
