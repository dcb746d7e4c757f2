from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop.conversion import to_theirs
from pipeline.interop.importing import import_weights, read_foreign
from pipeline.interop.known import Published
from pipeline.interop.layout import layouts_of
from pipeline.interop.network import identify
from pipeline.models import create_model
from pipeline.models.weights import read_weights, save_weights
from pipeline.networks.registry import NETWORKS
from pipeline.store.file import sha256_of
from pipeline.store.weight_header import read_metadata


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    return create_model("senet_nano", 10, seed=1).state_dict()


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_weights_of_this_project_come_back_bit_for_bit(small, tmp_path):
    source = saved(tmp_path / "w.pth", {"state_dict": small})
    imported = import_weights(source, tmp_path / "w.safetensors", None)
    # The public ports have no such network, so the names are ours.
    assert (imported.layout, imported.network.name, imported.preprocessing) == ("ours", "senet_nano", None)
    assert imported.metadata() == {
        "model": "senet_nano",
        "num_classes": "10",
        "source_layout": "ours",
        "source_sha256": sha256_of(source),
    }
    found = read_weights(tmp_path / "w.safetensors")
    assert found.keys() == small.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in small.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_told_apart_by_the_shapes_of_their_convolutions(name):
    with torch.device("meta"):
        tensors = create_model(name, 7).state_dict()
    assert identify({f"any.{key}": tuple(tensor.shape) for key, tensor in tensors.items()}, "file") == name


def test_a_layout_that_is_insisted_on_brings_its_preprocessing(small, tmp_path):
    imported = read_foreign(saved(tmp_path / "w.pth", small), "cadene")
    assert imported.preprocessing == Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear_antialias", "ceil")


def test_the_file_s_own_preprocessing_is_kept(small, tmp_path):
    own = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bilinear", "padded")
    save_weights(tmp_path / "w.safetensors", small, {"model": "senet_nano", **own.metadata()})
    assert read_foreign(tmp_path / "w.safetensors", None).preprocessing == own
    assert read_foreign(tmp_path / "w.safetensors", "cadene").preprocessing == own


def test_old_names_counters_and_half_precision_become_the_network_s(small, tmp_path):
    old = {
        name.replace("last_linear", "fc"): tensor.half()
        for name, tensor in small.items()
        if not name.endswith("num_batches_tracked")
    }
    imported = read_foreign(saved(tmp_path / "w.pth", old), "cadene")
    assert imported.tensors["last_linear.weight"].dtype == torch.float32
    assert torch.equal(imported.tensors["last_linear.weight"], small["last_linear.weight"].half().float())
    assert imported.tensors["layer0.bn1.num_batches_tracked"] == 0


def test_the_wrong_layout_is_refused_with_what_was_found(small, tmp_path):
    path = saved(tmp_path / "w.pth", small)
    with pytest.raises(UserError) as caught:
        read_foreign(path, "timm")
    assert str(caught.value) == (
        f"{path}: not of --layout timm: no tensor conv1.0.weight; it holds 126, the first: layer0.conv1.weight "
        "(16, 3, 3, 3), layer0.bn1.weight (16,), layer0.bn1.bias (16,); its names are those of --layout ours"
    )
    with pytest.raises(
        UserError, match="not of --layout caffe: it is a file of named tensors, no caffe file; it holds"
    ):
        read_foreign(path, "caffe")


def test_another_network_is_refused_with_the_nearest(tmp_path):
    tensors = {f"stage.{block}.weight": torch.zeros(64, 64, 1, 1) for block in range(6)}
    path = saved(tmp_path / "w.pth", tensors)
    message = (
        f"{path}: another network: it has 6 convolutions, of which 2 are also in shake_even_nano, the nearest; it "
        "holds 6, the first: stage.0.weight (64, 64, 1, 1), stage.1.weight (64, 64, 1, 1), "
        f"stage.2.weight (64, 64, 1, 1); what can be converted is {', '.join(NETWORKS)}"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_foreign(path, None)


def test_a_network_without_blocks_is_listed(tmp_path):
    path = saved(tmp_path / "w.pth", {"features.0.weight": torch.zeros(64, 3, 11, 11), "x" * 200: torch.zeros(2)})
    with pytest.raises(UserError) as caught:
        read_foreign(path, None)
    assert str(caught.value) == (
        f"{path}: no network of a known layout; it holds 2, the first: features.0.weight (64, 3, 11, 11), "
        f"{'x' * 80} (2,); what can be converted is {', '.join(NETWORKS)}"
    )


def test_our_blocks_under_unknown_names_are_listed(small, tmp_path):
    tensors = {name.replace("layer0.", "stem.").replace("last_linear", "head"): each for name, each in small.items()}
    with pytest.raises(
        UserError, match="has the convolutions of senet_nano, but names of no known layout; it holds 126"
    ):
        read_foreign(saved(tmp_path / "w.pth", tensors), None)


def test_wrong_shapes_and_missing_tensors_are_named(small, tmp_path):
    wrong = dict(small) | {"layer2.0.bn2.bias": torch.zeros(3)}
    del wrong["layer3.0.conv3.weight"]
    with pytest.raises(UserError) as caught:
        read_foreign(saved(tmp_path / "w.pth", wrong), None)
    assert str(caught.value) == (
        f"{tmp_path / 'w.pth'}: these weights are not this network's\n"
        "  1 of 126 tensors missing: layer3.0.conv3.weight\n"
        "  1 of 126 tensors of another shape: layer2.0.bn2.bias is (3,), not (128,)"
    )
    del wrong["last_linear.weight"], wrong["last_linear.bias"]
    with pytest.raises(UserError, match=r"3 of 126 tensors missing: .*last_linear\.weight, last_linear\.bias"):
        read_foreign(saved(tmp_path / "w.pth", wrong), None)


def test_a_tensor_that_claims_more_than_its_bytes_costs_no_memory(small, tmp_path):
    huge = dict(small) | {"layer2.0.bn2.bias": torch.zeros(1).expand(1 << 42)}
    with pytest.raises(UserError, match=r"layer2\.0\.bn2\.bias is \(4398046511104,\), not \(128,\)"):
        read_foreign(saved(tmp_path / "w.pth", huge), None)


def test_nothing_is_overwritten_and_paths_are_checked_first(small, tmp_path):
    source = saved(tmp_path / "w.pth", small)
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    for destination, message in (
        (there, "is there already; remove it or choose another name"),
        (tmp_path / "w.pt", "must end in .safetensors"),
        (tmp_path / "none" / "w.safetensors", f"there is no folder {tmp_path / 'none'}"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'{destination}: {message}')}$"):
            import_weights(source, destination, None)
    assert there.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.safetensors", "w.pth"]


def renamed(small_network: str, layout: str) -> dict[str, torch.Tensor]:
    tensors = create_model(small_network, 10, seed=1).state_dict()
    return to_theirs(tensors, layouts_of(small_network)[layout], small_network)


def test_names_of_several_networks_are_asked_about_and_never_chosen(tmp_path):
    path = saved(tmp_path / "w.pth", renamed("resnet_nano", "torchvision"))
    with pytest.raises(UserError) as caught:
        read_foreign(path, None)
    pixels = "RGB mean (123.675, 116.28, 103.53), std (58.395, 57.12, 57.375) of 255"
    assert str(caught.value) == (
        f"{path}: several networks name their tensors like this resnet_nano, and nothing in it says which it is; say "
        "so with one of\n"
        "  --layout cafferesnet: stride in the first 1x1 convolution; RGB mean (122.772, 115.947, 102.98), std (1, 1, "
        "1) of 255; resized by bilinear_antialias; max-pool ceil\n"
        f"  --layout timm: stride in the 3x3 convolution; {pixels}; resized by bicubic_antialias; max-pool padded\n"
        f"  --layout torchvision: stride in the 3x3 convolution; {pixels}; resized by bilinear_antialias; max-pool "
        "padded"
    )
    strides = {name: read_foreign(path, name).network.stride_in_3x3 for name in ("cafferesnet", "timm", "torchvision")}
    assert strides == {"cafferesnet": False, "timm": True, "torchvision": True}


def test_names_that_one_library_alone_has_say_where_the_stride_is(tmp_path):
    path = saved(tmp_path / "w.pth", renamed("se_resnet_nano", "timm"))
    imported = import_weights(path, tmp_path / "w.safetensors", None)
    assert (imported.layout, imported.network.stride_in_3x3) == ("timm", True)
    assert read_metadata(tmp_path / "w.safetensors")["stride_in_3x3"] == "true"
    imported = read_foreign(saved(tmp_path / "w.pth", renamed("se_resnet_nano", "cadene")), "cadene")
    assert imported.network.stride_in_3x3 is False


@pytest.mark.parametrize(
    ("network", "layout"),
    [("vgg_nano", "timm"), ("vgg_nano", "torchvision"), ("inception_resnet_nano", "timm"), ("vgg_nano", "cadene")],
)
def test_layouts_that_differ_late_are_told_apart_by_the_classifier(network, layout, tmp_path):
    assert read_foreign(saved(tmp_path / "w.pth", renamed(network, layout)), None).layout == layout


def test_a_layout_that_differs_late_is_refused_by_the_tensor_that_is_missing(tmp_path):
    path = saved(tmp_path / "w.pth", renamed("vgg_nano", "torchvision"))
    with pytest.raises(UserError, match=r"not of --layout timm: no tensor head\.fc\.weight; it holds"):
        read_foreign(path, "timm")


def test_a_bias_that_another_layer_reads_too_is_not_put_into_a_mean(tmp_path):
    tensors = dict(create_model("preresnet_nano", 5).state_dict())
    tensors["layer0.bias"] = torch.zeros(tensors["layer0.weight"].shape[0])
    with pytest.raises(UserError, match=r"1 of \d+ tensors unexpected: layer0\.bias"):
        read_foreign(saved(tmp_path / "w.pth", tensors), "ours")


def test_a_published_file_is_what_its_checksum_says(tmp_path, monkeypatch):
    path = saved(tmp_path / "w.pth", renamed("resnet_nano", "torchvision"))
    known = Published(
        "resnet50-0676ba61.pth", "torchvision reports", "torchvision", sha256_of(path), "resnet50", 1.0, 1.0
    )
    monkeypatch.setattr("pipeline.interop.known.KNOWN", (known,))
    assert read_foreign(path, None).layout == "torchvision"
    message = "not of --layout timm: by its checksum it is resnet50-0676ba61.pth (torchvision)"
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {message}')}$"):
        read_foreign(path, "timm")


def test_biases_in_front_of_batch_norms_become_part_of_their_means(tmp_path):
    tensors = renamed("vgg_nano", "torchvision")
    plain = read_foreign(saved(tmp_path / "w.pth", tensors), None)
    tensors["features.0.bias"] += 0.25
    moved = read_foreign(saved(tmp_path / "w.pth", tensors), None)
    name = "conv1.0.unit.bn.running_mean"
    assert torch.equal(moved.tensors[name], plain.tensors[name] - 0.25)


def test_the_first_convolution_of_networks_for_bgr_images_is_turned_to_rgb(tmp_path):
    tensors = renamed("bn_inception_nano", "cadene")
    imported = read_foreign(saved(tmp_path / "w.pth", tensors), None)
    first = imported.tensors["conv1.7x7_s2.conv.weight"]
    assert torch.equal(first, tensors["conv1_7x7_s2.weight"].flip(1))
    assert imported.preprocessing == Preprocessing((128.0, 117.0, 104.0), (1.0, 1.0, 1.0), "bilinear_antialias")


def test_the_background_of_tensorflow_s_classes_is_left_out_and_said(tmp_path):
    tensors = create_model("inception_resnet_nano", 1001, seed=1).state_dict()
    imported = read_foreign(saved(tmp_path / "w.pth", tensors), "cadene")
    assert imported.network.num_classes == 1000
    assert torch.equal(imported.tensors["last_linear.weight"], tensors["last_linear.weight"][1:])
    assert imported.notes == ("left out: the first of 1001 classes, the background",)
    assert read_foreign(tmp_path / "w.pth", "ours").network.num_classes == 1001


def test_a_network_with_another_activation_is_named(tmp_path):
    tensors = create_model("mobilenet_nano", 10).state_dict()
    tensors["conv_stem.weight"] = tensors.pop("conv1.conv.weight")
    tensors["classifier.weight"] = tensors.pop("last_linear.weight")
    with pytest.raises(UserError, match=r"w\.pth: timm's mobilenetv1_100, which has ReLU6 where mobilenet_v1 has ReLU"):
        read_foreign(saved(tmp_path / "w.pth", tensors), None)
