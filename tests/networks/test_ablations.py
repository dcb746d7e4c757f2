"""The recipes of the paper's Tables 10 to 16: every variant of the block against what is published, and by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config.reader import load_members
from pipeline.config.sweep import Member
from pipeline.models import create_model
from pipeline.networks.registry import SEBlock
from tests.conftest import REPOSITORY
from tests.models.test_se import block_output
from tests.networks.published import TABLES

NUMBERS = range(10, 17)
PRINTED = {
    10: {
        "se_none": 25.6,
        "reduction2": 45.7,
        "reduction4": 35.7,
        "reduction8": 30.7,
        "reduction16": 28.1,
        "reduction32": 26.9,
    },
    13: {"se_none": 25.6, "stages2": 25.6, "stages3": 25.7, "stages4": 26.4, "stages2_3_4_5": 28.1},
    15: {"integration_standard": 28.1, "integration3x3": 25.8},
    16: {"se_none": 25.6, "squeeze_none": 28.1, "squeeze_average": 28.1},
}
"""Parameters in millions, by table and member."""


def members(folder: str, table: int) -> dict[str, Member]:
    """The variants of a table, of one seed, which their names leave out."""
    found = load_members(REPOSITORY / f"configs/{folder}/table{table}.yaml", ["seed=1"])
    return {member.name.removesuffix("-seed1"): member for member in found}


def blocks(folder: str) -> dict[SEBlock, str]:
    """Every block of the tables, once, with a name."""
    found: dict[SEBlock, str] = {}
    for table in NUMBERS:
        for name, member in members(folder, table).items():
            if (block := member.config.model.block) is not None:
                found.setdefault(block, name)
    return found


def test_parameters_with_running_statistics_are_those_printed_but_for_a_reduction_of_8() -> None:
    found = {}
    for table, printed in PRINTED.items():
        assert members("paper", table).keys() == printed.keys()
        for name, member in members("paper", table).items():
            with torch.device("meta"):
                model = create_model(member.config.model.name, 1000, se=member.config.model.block)
            sizes = {key: tensor.numel() for key, tensor in model.state_dict().items() if "num_batches" not in key}
            found[table, name] = round(sum(sizes.values()) / 1e6, 2)
    figures = {(table, name): figure for table, printed in PRINTED.items() for name, figure in printed.items()}
    assert len(figures) == 16
    others = {where: found[where] for where, figure in figures.items() if abs(found[where] - figure) > 0.05001}
    assert others == {(10, "reduction8"): 30.64}


def test_every_published_variant_is_a_member_of_a_table_s_sweep() -> None:
    published = {SEBlock(**se) for name, (_, se) in TABLES.items() if name.startswith("ablation-")}
    assert published <= blocks("paper").keys()
    assert all(not block.bias for block in blocks("paper"))


def test_the_small_recipes_have_the_same_variants() -> None:
    whole, small = blocks("paper"), blocks("small")
    assert {dataclasses.replace(block, stages=None) for block in whole} == {
        dataclasses.replace(block, stages=None) for block in small
    }
    for table in NUMBERS:
        ours, paper = members("small", table), members("paper", table)
        extra = {"se_none"} if table == 14 else set()
        assert {name.replace("_5", "") for name in paper} | extra == ours.keys()


@pytest.mark.parametrize("block", [pytest.param(block, id=name) for block, name in blocks("small").items()])
def test_every_variant_computes_what_the_paper_defines(block: SEBlock) -> None:
    model: Any = create_model("se_resnet_nano", 10, se=block).eval()
    generator = torch.Generator().manual_seed(1)
    for stage, layer in enumerate((model.layer1, model.layer2, model.layer3), start=2):
        bottleneck = layer[0]
        assert (bottleneck.se_module is not None) == (block.stages is None or stage in block.stages)
        for parameter in () if bottleneck.se_module is None else bottleneck.se_module.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        x = torch.randn(2, bottleneck.conv1.in_channels, 6, 6, generator=generator)
        options = dataclasses.asdict(block)
        if bottleneck.se_module is None:
            options["integration"] = "nowhere"
        with torch.no_grad():
            torch.testing.assert_close(bottleneck(x), block_output(bottleneck, x.clone(), **options))
