"""Every network against what is published of it: totals always, layer by layer where the tables are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.models.tracing import trace_layers
from pipeline.networks.authors_table import prototxt_name
from pipeline.networks.layers import Cost, Layer, layer_table
from pipeline.networks.registry import NETWORKS, SEBlock
from tests.networks.interpreter import execute
from tests.networks.published import TABLES, classes_of, read_published

TOTALS = {
    # Learnable parameters, the same with running means and variances, multiply-adds of convolutions and classifier.
    "senet154": (115_088_984, 115_336_536, 20_688_363_520),
    "resnet50": (25_557_032, 25_610_152, 3_857_973_248),
    "se_resnet50": (28_088_024, 28_141_144, 3_860_488_192),
    "resnet101": (44_549_160, 44_654_504, 7_570_194_432),
    "se_resnet101": (49_326_872, 49_432_216, 7_574_937_600),
    "resnet152": (60_192_808, 60_344_232, 11_282_415_616),
    "se_resnet152": (66_821_848, 66_973_272, 11_288_993_792),
    "resnext50_32x4d": (25_028_904, 25_097_128, 4_230_479_872),
    "se_resnext50_32x4d": (27_559_896, 27_628_120, 4_232_994_816),
    "resnext101_32x4d": (44_177_704, 44_315_560, 7_969_996_800),
    "se_resnext101_32x4d": (48_955_416, 49_093_272, 7_974_739_968),
    "bn_inception": (11_285_224, 11_305_256, 2_032_600_064),
    "se_bn_inception": (11_931_622, 11_951_654, 2_033_239_424),
    "inception_resnet_v2": (55_843_464, 55_904_008, 13_155_794_016),
    "se_inception_resnet_v2": (64_387_444, 64_447_988, 13_164_289_376),
    "vgg16_bn": (138_361_768, 138_370_216, 15_470_264_320),
    "se_vgg16_bn": (138_592_560, 138_601_008, 15_470_490_624),
    "mobilenet_v1": (4_231_976, 4_253_864, 568_740_352),
    "se_mobilenet_v1": (4_718_044, 4_739_932, 569_220_096),
    "shufflenet_v1_g3": (1_865_728, 1_890_208, 137_460_672),
    "se_shufflenet_v1_g3": (2_484_533, 2_509_013, 138_071_088),
}
ABLATIONS: tuple[tuple[dict[str, Any], tuple[int, int]], ...] = (
    ({"reduction": 2}, (45_676_584, 3_878_092_800)),
    ({"reduction": 4}, (35_616_808, 3_868_033_024)),
    ({"reduction": 8}, (30_586_920, 3_863_003_136)),
    ({}, (28_071_976, 3_860_488_192)),
    ({"reduction": 32}, (26_814_504, 3_859_230_720)),
    ({"squeeze": "max"}, (28_071_976, 3_860_488_192)),
    ({"squeeze": "none"}, (28_071_976, 4_269_015_040)),
    ({"excitation": "relu"}, (28_071_976, 3_860_488_192)),
    ({"excitation": "tanh"}, (28_071_976, 3_860_488_192)),
    ({"stages": (2,)}, (25_581_608, 3_857_997_824)),
    ({"stages": (3,)}, (25_688_104, 3_858_104_320)),
    ({"stages": (4,)}, (26_343_464, 3_858_759_680)),
    ({"integration": "pre"}, (27_548_200, 3_859_964_416)),
    ({"integration": "post"}, (28_071_976, 3_860_488_192)),
    ({"integration": "identity"}, (28_071_976, 3_860_488_192)),
    ({"integration": "3x3"}, (25_714_216, 3_858_130_432)),
)
"""Of SE-ResNet-50 without biases, Tables 10 to 16: parameters and multiply-adds."""


CIFAR_TOTALS = {
    # The same, of Tables 4 and 5, with 10 classes; and the learnable parameters with 100.
    "preresnet110": (1_730_522, 1_738_618, 253_149_824, 1_736_372),
    "se_preresnet110": (1_744_760, 1_752_856, 253_161_920, 1_750_610),
    "preresnet164": (1_703_258, 1_727_482, 244_500_992, 1_726_388),
    "se_preresnet164": (1_905_362, 1_929_586, 244_694_528, 1_928_492),
    "wrn16_8": (10_961_370, 10_968_570, 1_548_145_664, 11_007_540),
    "se_wrn16_8": (11_049_290, 11_056_490, 1_548_231_680, 11_095_460),
    "shake_shake26_2x96d": (26_192_922, 26_215_802, 3_776_892_672, 26_227_572),
    "se_shake_shake26_2x96d": (26_292_546, 26_315_426, 3_776_989_440, 26_327_196),
    "shake_even29_2x4x64d": (34_437_450, 34_505_674, 5_387_266_048, 34_529_700),
    "se_shake_even29_2x4x64d": (34_959_258, 35_027_482, 5_387_782_144, 35_051_508),
}


def traced(name: str, num_classes: int = 1000, **se: Any) -> tuple[Layer, ...]:
    with torch.device("meta"):
        model = create_model(name, num_classes, se=SEBlock(**se) if se else "default")
    return trace_layers(model, NETWORKS[name].image_size_px)


@pytest.fixture
def facts(shared_data: Path) -> Path:
    """The folder of the layer tables, beside that of the real data."""
    folder = shared_data.parent / "facts" / "layers"
    if not folder.is_dir():
        pytest.skip(f"the layer tables are not in {folder}")
    return folder


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_the_published_ones(name: str) -> None:
    cost = Cost.of(layer_table(name))
    assert (cost.parameters, cost.parameters + cost.buffers, cost.macs) == TOTALS[name]


@pytest.mark.parametrize("name", CIFAR_TOTALS)
def test_totals_for_cifar_are_the_published_ones(name: str) -> None:
    ten, hundred = (Cost.of(layer_table(name, classes)) for classes in (10, 100))
    found = (ten.parameters, ten.parameters + ten.buffers, ten.macs, hundred.parameters)
    assert found == CIFAR_TOTALS[name]


def test_every_network_of_the_paper_has_published_totals() -> None:
    ours = {"resnext152_64x4d", "se_resnext152_64x4d"}
    """The paper gives no figure of the network that SENet-154 came from."""
    assert {name for name in NETWORKS if not name.endswith("_nano")} - ours == {*TOTALS, *CIFAR_TOTALS}


@pytest.mark.parametrize(("se", "totals"), ABLATIONS, ids=lambda value: str(value))
def test_totals_of_the_ablations_are_the_published_ones(se: dict[str, Any], totals: tuple[int, int]) -> None:
    cost = Cost.of(traced("se_resnet50", bias=False, **se))
    assert (cost.parameters, cost.macs) == totals


def test_with_the_stride_in_the_3x3_the_multiply_adds_are_torchvision_s() -> None:
    for name, gmacs in (("resnet50", 4.089), ("resnet101", 7.801), ("resnet152", 11.514)):
        with torch.device("meta"):
            model = create_model(name, 1000, stride_in_3x3=True)
        cost = Cost.of(trace_layers(model, 224))
        assert (cost.parameters, round(cost.macs / 1e9, 3)) == (TOTALS[name][0], gmacs)


@pytest.mark.parametrize("table", TABLES)
def test_every_layer_is_that_of_the_published_table(table: str, facts: Path) -> None:
    """In order, with inputs and outputs by name."""
    name, se = TABLES[table]
    published, ours = list(read_published(facts, table)), list(traced(name, classes_of(table), **se))
    assert [layer.name for layer in ours] == [layer.name for layer in published]
    for layer, row in zip(ours, published, strict=True):
        # A sum, and a map times its gates, are the same in either order.
        in_order = sorted if row.kind in ("add", "scale") else tuple
        assert (_kind(layer), in_order(layer.inputs)) == (_kind(row), in_order(row.inputs)), layer.name
        if layer.name == "avg_pool":
            # A prototxt's window of 7x7 covers the whole map of its image size.
            continue
        for field in ("in_channels", "out_channels", "out_size", "kernel", "stride", "padding", "groups", "bias"):
            theirs = getattr(row, field)
            assert theirs in (getattr(layer, field), 0, None), f"{layer.name}: {field}"


def _kind(layer: Layer) -> str:
    kinds = {"ave_pool_3x3_s1_p1_exclude_pad": "ave_pool_exclude_pad", "add_scaled_1.0": "add_scaled_1"}
    return "global_avg_pool" if layer.name == "avg_pool" else kinds.get(layer.kind, layer.kind)


def with_statistics(name: str, **se: Any) -> tuple[Any, tuple[Layer, ...]]:
    """A network in evaluation whose tensors are all different, and its traced table."""
    generator = torch.Generator().manual_seed(5)
    model = create_model(name, 1000, se=SEBlock(**se) if se else "default", seed=5).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point():
                low, high = (0.5, 1.5) if key.endswith(("weight", "running_var")) else (-0.2, 0.2)
                tensor.uniform_(low, high, generator=generator)
    return model, traced(name, **se)


@pytest.mark.parametrize(
    ("name", "se"),
    [
        *((name, {}) for name in NETWORKS if name.endswith("_nano")),
        *(("resnet_nano", {"integration": place}) for place in ("pre", "post", "identity", "3x3")),
        ("resnet_nano", {"squeeze": "max", "excitation": "tanh", "stages": (3,)}),
        ("resnet_nano", {"squeeze": "none", "excitation": "relu", "bias": False, "reduction": 4}),
    ],
)
def test_outputs_are_those_of_the_table_executed_with_the_same_weights(name: str, se: dict[str, Any]) -> None:
    model, layers = with_statistics(name, **se)
    size = NETWORKS[name].image_size_px
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    eps = next(module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    found, expected = model(images).detach(), execute(layers, model.state_dict(), images, eps)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert expected.std() > 0.01


RELEASED = ("SE-ResNet-50", "SE-ResNet-152", "SE-ResNeXt-50-32x4d", "SE-BN-Inception")
"""Networks whose prototxts the authors published."""


@pytest.mark.parametrize("table", RELEASED)
def test_prototxt_names_are_the_published_ones(table: str, facts: Path) -> None:
    with (facts / f"{table}.csv").open(newline="") as file:
        theirs = [row["name"] for row in csv.DictReader(file) if row["kind"] in ("conv", "fc")]
    ours = [prototxt_name(row) for row in layer_table(TABLES[table][0]) if row.kind in ("conv", "fc")]
    assert ours == theirs
