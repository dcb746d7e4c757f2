from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.networks.layers import TABLES, Cost, layer_table, write_table
from pipeline.networks.registry import NETWORKS

SENET154 = layer_table("senet154")


def test_senet154_has_the_published_numbers_of_parameters_and_statistics() -> None:
    cost = Cost.of(SENET154)
    assert (cost.parameters, cost.buffers) == (115_088_984, 247_552)


def test_parameters_of_the_parts_are_the_published_ones() -> None:
    gates = sum(layer.parameters for layer in SENET154 if ".se_module." in layer.name)
    projections = sum(layer.parameters for layer in SENET154 if layer.name.endswith("downsample.0"))
    assert (gates, projections) == (6_629_040, 24_805_376)


def test_multiply_adds_at_224_are_exact() -> None:
    assert Cost.of(SENET154).macs == 20_688_363_520


@pytest.mark.parametrize(
    ("image_size_px", "gmacs"),
    [(160, 10.56), (192, 15.20), (256, 27.02), (288, 34.19), (299, 38.33), (320, 42.21), (331, 46.79), (352, 51.07)],
)
def test_multiply_adds_at_other_sizes_are_the_known_ones(image_size_px: int, gmacs: float) -> None:
    assert round(Cost.of(layer_table("senet154", 1000, image_size_px)).macs / 1e9, 2) == gmacs


def test_senet154_keeps_the_measured_memory_an_image() -> None:
    cost = Cost.of(SENET154)
    assert cost.activation_bytes_float32 / 1e6 == pytest.approx(362, rel=0.01)
    assert cost.activation_bytes_16bit / 1e6 == pytest.approx(183, rel=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_table_is_written_as_it_was_read(name: str, tmp_path: Path) -> None:
    write_table(layer_table(name), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == (TABLES / f"{name}.csv").read_bytes()


def test_there_is_a_table_for_each_network_and_no_other() -> None:
    assert {path.stem for path in TABLES.iterdir()} == set(NETWORKS)


def test_layers_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SENET154[0].groups = 1  # type: ignore[misc]
