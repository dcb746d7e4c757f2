from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.initialisation import initialise
from pipeline.models.network import Network
from pipeline.models.resnet import Bottleneck
from pipeline.networks.registry import NETWORKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def senet154() -> Network:
    """The network without memory."""
    with torch.device("meta"):
        return create_model("senet154", 1000)


def _nano(seed: int = 0) -> Any:
    """Any: mypy takes what `add_module` has added for a tensor."""
    return create_model("senet_nano", 10, seed=seed)


@pytest.mark.parametrize("image_size_px", [160, 192, 224, 299, 320, 331, 352])
def test_images_of_any_size_give_one_row_of_scores_each(senet154: Network, image_size_px: int) -> None:
    scores = senet154(torch.empty(2, 3, image_size_px, image_size_px, device="meta"))
    assert scores.shape == (2, 1000)


def test_images_need_not_be_square(senet154: Network) -> None:
    assert senet154(torch.empty(1, 3, 256, 199, device="meta")).shape == (1, 1000)


def test_smallest_image_passes_in_eval_mode() -> None:
    assert _nano().eval()(torch.zeros(1, 3, 3, 3)).shape == (1, 10)


def test_max_pool_starts_at_the_first_pixel_and_rounds_up(senet154: Network) -> None:
    pooled = senet154.pool0(torch.arange(36.0).reshape(1, 1, 6, 6))
    assert pooled.tolist() == [[[[14.0, 16.0, 17.0], [26.0, 28.0, 29.0], [32.0, 34.0, 35.0]]]]


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.family == "resnet"])
def test_every_convolution_but_the_gates_has_a_batch_norm_and_no_bias(name: str) -> None:
    with torch.device("meta"):
        modules = dict(create_model(name, 10).named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d) and ".se_module." not in name:
            parent, _, last = name.rpartition(".")
            batch_norm = modules[f"{parent}.1" if last == "0" else f"{parent}.{last.replace('conv', 'bn')}"]
            assert isinstance(batch_norm, nn.BatchNorm2d), name
            assert (module.bias, batch_norm.num_features, batch_norm.eps) == (None, module.out_channels, 1e-5), name


def test_senet154_has_157_batch_norms_and_154_layers(senet154: Network) -> None:
    modules = list(senet154.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == 157
    # As the authors count: stem, three a block, classifier; gates and projections are not counted.
    assert 3 + 3 * sum(isinstance(module, Bottleneck) for module in modules) + 1 == 154


def test_momentum_of_the_batch_norms_is_the_one_asked_for() -> None:
    model = create_model("senet_nano", 10, bn_momentum=0.03)
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.03}


def test_projections_are_1x1_in_the_first_stage_and_dense_strided_3x3_after(senet154: Network) -> None:
    for stage in range(1, 5):
        for index, block in enumerate(senet154.get_submodule(f"layer{stage}").children()):
            assert isinstance(block, Bottleneck)
            if index > 0:
                assert block.downsample is None
                continue
            conv = block.get_submodule("downsample.0")
            kind = (conv.kernel_size, conv.stride, conv.padding, conv.groups)
            assert kind == (((1, 1), (1, 1), (0, 0), 1) if stage == 1 else ((3, 3), (2, 2), (1, 1), 1))


def test_small_network_has_the_changes_of_the_appendix() -> None:
    model = _nano()
    stem = [module for module in model.layer0 if isinstance(module, nn.Conv2d)]
    assert [(conv.kernel_size, conv.stride) for conv in stem] == [((3, 3), (2, 2)), ((3, 3), (1, 1)), ((3, 3), (1, 1))]
    assert model.dropout.p == 0.2
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 4
    for block in blocks:
        width = block.conv2.out_channels
        assert block.conv1.out_channels == block.conv2.in_channels == width // 2
        assert (block.conv2.groups, block.se_module.fc1.out_channels) == (16, width // 16)
    projections = [block.downsample[0] for block in blocks if isinstance(block.downsample, nn.Sequential)]
    assert [conv.kernel_size for conv in projections] == [(1, 1), (3, 3), (3, 3)]
    assert sum(parameter.numel() for parameter in model.parameters()) == 558_814


def test_block_is_relu_of_gated_branch_plus_shortcut() -> None:
    block = _nano().layer2[1].eval()
    x = torch.randn(2, 128, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = torch.relu(block.bn1(block.conv1(x)))
        y = block.bn3(block.conv3(torch.relu(block.bn2(block.conv2(y)))))
        pooled = y.mean((2, 3))
        fc1, fc2 = block.se_module.fc1, block.se_module.fc2
        squeezed = torch.relu(pooled @ fc1.weight.flatten(1).T + fc1.bias)
        gate = torch.sigmoid(squeezed @ fc2.weight.flatten(1).T + fc2.bias)
        torch.testing.assert_close(block(x), torch.relu(gate[:, :, None, None] * y + x))


def test_block_leaves_its_input_as_it_was() -> None:
    x = torch.randn(2, 128, 5, 5, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    _nano().layer2[1](x)
    assert torch.equal(x, before)


def test_dropout_acts_in_train_mode_only() -> None:
    model, images = _nano(), torch.ones(2, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_channels_last_stays_through_the_network_and_changes_no_score() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    expected = _nano().eval()(images)
    model = _nano().eval().to(memory_format=torch.channels_last)
    layouts = []
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.register_forward_hook(
                lambda _, __, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    scores = model(images.to(memory_format=torch.channels_last))
    assert layouts == [True] * 4
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_compiler_sees_one_graph() -> None:
    model, images = _nano().eval(), torch.ones(2, 3, 32, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def test_autocast_trains_in_bfloat16() -> None:
    model = _nano()
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(torch.ones(4, 3, 32, 32))
    assert scores.dtype == torch.bfloat16
    scores.float().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = _nano(seed=7).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = _nano(seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = _nano(seed=8).state_dict()
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].dim() > 1)


def test_initial_weights_do_not_depend_on_memory_format() -> None:
    expected = _nano(seed=7).state_dict()
    model = _nano(seed=1).to(memory_format=torch.channels_last)
    initialise(model, 7)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_initialise_forgets_everything_that_was_learnt() -> None:
    model = _nano(seed=7)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(3)
    initialise(model, 7)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_initial_weights_have_the_fan_in_deviation_of_he() -> None:
    for name, module in create_model("senet_nano", 1000).named_modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            fan_in = module.in_channels // module.groups * height * width
        elif isinstance(module, nn.Linear):
            fan_in = module.in_features
        else:
            continue
        weight, count = module.weight, module.weight.numel()
        expected = math.sqrt(2 / fan_in)
        # Four standard errors of a normal sample's mean and deviation.
        assert abs(weight.mean()) < 4 * expected / math.sqrt(count), name
        assert abs(weight.std() / expected - 1) < 4 / math.sqrt(2 * count), name
        assert module.bias is None or not module.bias.any(), name


def test_initial_batch_norms_pass_everything_on() -> None:
    for module in _nano().modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert module.running_mean is not None
            assert (module.running_mean == 0).all()
            assert module.running_var is not None
            assert (module.running_var == 1).all()
            assert module.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("senet_nano", "767493ea3131b625b170d8820da4082eebc3658a9de1667da58287bb0e68b413"),
        ("senet154", "f30c6a3367f87e2d2105ad8cfb82e28a7547e25f0cd5eeb90f2c9e7ebfb7a421"),
    ],
)
def test_initial_weights_and_their_order_are_those_of_version_0_2(name: str, digest: str) -> None:
    found = hashlib.sha256()
    for key, tensor in create_model(name, 10, seed=3).state_dict().items():
        found.update(f"{key}{tuple(tensor.shape)}".encode())
        found.update(tensor.numpy().tobytes())
    assert found.hexdigest() == digest


def test_each_tensor_has_a_stream_of_its_own() -> None:
    one, other = (create_model("senet_nano", num_classes, seed=3).state_dict() for num_classes in (10, 100))
    assert torch.equal(one["layer1.0.conv2.weight"], other["layer1.0.conv2.weight"])
    assert not torch.equal(one["layer2.0.conv3.weight"], one["layer2.1.conv3.weight"])


def test_network_under_the_meta_device_takes_no_memory(senet154: Network) -> None:
    assert all(tensor.is_meta for tensor in senet154.state_dict().values())


def test_unknown_network_is_refused_with_the_known_ones() -> None:
    known = ", ".join(NETWORKS)
    with pytest.raises(UserError, match=rf"model\.name: there is no network 'vgg' \(there are: {known}\)"):
        create_model("vgg", 10)
