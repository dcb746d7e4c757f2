from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.ground.errors import UserError
from pipeline.interop import caffe
from pipeline.interop.caffemodel import message_class
from pipeline.interop.importing import Imported, import_weights, read_foreign
from pipeline.interop.network import identify
from pipeline.models import create_model
from pipeline.models.weights import complete_tensors, load_tensors
from pipeline.store.weight_header import read_metadata
from tests.interop.caffe_network import NETWORKS, CaffeNetwork


@pytest.fixture(scope="module")
def network() -> CaffeNetwork:
    return CaffeNetwork(num_classes=1000, seed=17)


def our_scores(imported: Imported, image_rgb: np.ndarray) -> np.ndarray:
    """As evaluate shows images to imported weights."""
    assert imported.preprocessing is not None
    num_classes = len(imported.tensors["last_linear.bias"])
    model = create_model(imported.network.name, num_classes, max_pool=imported.preprocessing.max_pool)
    load_tensors(model, imported.tensors, "caffe")
    mean, std = (
        torch.tensor(triple).view(3, 1, 1) for triple in (imported.preprocessing.mean, imported.preprocessing.std)
    )
    pixels = (torch.from_numpy(image_rgb).float() - mean) / std
    with torch.inference_mode():
        return model.eval()(pixels[None])[0].numpy()


@pytest.mark.parametrize(
    ("name", "size", "old_shapes"),
    [
        ("senet_nano", 32, False),
        ("senet_nano", 45, True),
        ("se_resnet_nano", 45, False),
        ("se_bn_inception_nano", 32, False),
        ("se_bn_inception_nano", 64, True),
    ],
)
def test_scores_are_those_of_caffe_s_layers_in_the_order_of_the_sorted_wordnet_ids(tmp_path, name, size, old_shapes):
    network = CaffeNetwork(1000, 17, NETWORKS[name])
    imported = read_foreign(network.save(tmp_path / "SENet.caffemodel", old_shapes=old_shapes), None)
    assert (imported.layout, imported.network.name, imported.network.num_classes) == ("caffe", name, 1000)
    image_rgb = np.random.default_rng(size).integers(0, 256, (3, size, size), dtype=np.uint8)
    expected = network.forward(image_rgb[::-1])
    found = our_scores(imported, image_rgb)
    # tench, n01440764, comes first of the sorted ids and has ILSVRC2012_ID 449; toilet tissue, n15075141, is last: 462.
    assert caffe.devkit_rows()[0] == 448
    assert np.abs(found - expected[caffe.devkit_rows()]).max() < 1e-4 * np.abs(expected).max()
    # Were the order left as it is, or the channels, the scores would be far off.
    assert np.abs(found - expected).max() > 0.1 * np.abs(expected).max()
    assert np.abs(found - network.forward(image_rgb)[caffe.devkit_rows()]).max() > 0.01 * np.abs(expected).max()


PUBLISHED = [name for name in NETWORKS if not name.endswith("_nano")]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_network_that_the_authors_published_is_known_by_its_layers(name):
    layers = CaffeNetwork(1000, 0, NETWORKS[name], is_random=False).as_read()
    shapes = {layer.name: layer.blobs[0].shape for layer in layers if layer.kind == "Convolution"}
    assert identify(shapes, "file") == name
    with torch.device("meta"):
        model = create_model(name, 1000)
    complete_tensors(model, caffe.to_tensors(Path("file"), layers, name), "file")


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("SE-ResNet-50", "se_resnet50"),
        ("SE-ResNet-152", "se_resnet152"),
        ("SE-ResNeXt-50-32x4d", "se_resnext50_32x4d"),
        ("SE-BN-Inception", "se_bn_inception"),
    ],
)
def test_the_layers_of_these_tests_are_those_of_the_authors_prototxts(shared_data, table, name):
    path = shared_data.parent / "facts" / "layers" / f"{table}.csv"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    with path.open(newline="") as file:
        rows = [row["name"] for row in csv.DictReader(file) if row["kind"] in ("conv", "fc", "bn")]
    layers = CaffeNetwork(1000, 0, NETWORKS[name], is_random=False).layers
    found = [layer for layer, (kind, _) in layers.items() if kind != "Scale"]
    assert sorted(found) == sorted(rows)


def test_a_caffe_file_of_another_family_is_refused(tmp_path):
    net = message_class("NetParameter")()
    for name, tensor in create_model("mobilenet_nano", 10).state_dict().items():
        if tensor.dim() == 4:
            blob = net.layer.add(name=name, type="Convolution").blobs.add()
            blob.data.extend(tensor.ravel().tolist())
            blob.shape.dim.extend(tensor.shape)
    (tmp_path / "m.caffemodel").write_bytes(net.SerializeToString())
    message = "m.caffemodel: has the convolutions of mobilenet_nano, of which there is no Caffe file of the authors'"
    with pytest.raises(UserError, match=f"{re.escape(message)}$"):
        read_foreign(tmp_path / "m.caffemodel", None)


def test_no_class_keeps_its_place_and_none_is_lost():
    rows = caffe.devkit_rows()
    assert sorted(rows) == list(range(1000))
    assert not any(label == row for label, row in enumerate(rows))


def test_other_than_1000_classes_stay_in_their_order(tmp_path):
    network = CaffeNetwork(num_classes=7, seed=3)
    imported = read_foreign(network.save(tmp_path / "own.caffemodel"), "caffe")
    assert imported.network.num_classes == 7
    assert torch.equal(imported.tensors["last_linear.bias"], torch.from_numpy(network.layers["classifier"][1][1]))


def test_how_images_are_prepared_travels_with_the_weights(network, tmp_path):
    import_weights(network.save(tmp_path / "SENet.caffemodel"), tmp_path / "w.safetensors", None)
    metadata = read_metadata(tmp_path / "w.safetensors")
    assert metadata.pop("source_sha256")
    assert metadata == {
        "model": "senet_nano",
        "num_classes": "1000",
        "source_layout": "caffe",
        "mean": "[123.0, 117.0, 104.0]",
        "std": "[1.0, 1.0, 1.0]",
        "resize": "bilinear",
        "max_pool": "ceil",
    }


def broken(tmp_path: Path, change) -> Path:
    net = CaffeNetwork(num_classes=2, seed=0).message()
    change({layer.name: layer for layer in net.layer}, net)
    path = tmp_path / "broken.caffemodel"
    path.write_bytes(net.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda layers, net: net.layer.remove(layers["conv3_1_3x3/bn"]),
            "layer conv3_1_3x3/bn is missing or has no weights",
        ),
        (
            lambda layers, net: layers["conv3_1_3x3/bn"].blobs.pop(),
            "layer conv3_1_3x3/bn: must be a BatchNorm with 3 blobs (found a BatchNorm with 2)",
        ),
        (
            lambda layers, net: setattr(layers["conv2_1_1x1_up"], "type", "InnerProduct"),
            "layer conv2_1_1x1_up: must be a Convolution with 2 blobs (found a InnerProduct with 2)",
        ),
        (
            lambda layers, net: layers["conv1_1/3x3_s2"].blobs[0].shape.dim.__setitem__(slice(None), [16, 1, 9, 3]),
            "layer conv1_1/3x3_s2: weights are (16, 1, 9, 3), not (16, 3, 3, 3)",
        ),
        (
            lambda layers, net: layers["classifier"].blobs[0].data.pop(),
            "layer classifier: 511 values for the shape (2, 256); the file is damaged",
        ),
        (
            lambda layers, net: layers["classifier"].blobs[0].shape.dim.__setitem__(slice(None), [-2, -256]),
            "layer classifier: 512 values for the shape (-2, -256); the file is damaged",
        ),
        (
            lambda layers, net: setattr(layers["conv4_1_3x3/bn"].batch_norm_param, "eps", 1e-3),
            "layer conv4_1_3x3/bn: eps is 0.001; the network's batch norms have 1e-05",
        ),
        (
            lambda layers, net: net.layer.add(name="extra", type="Scale").blobs.add(data=[1.0]).shape.dim.append(1),
            "1 layers with weights that senet_nano does not have: extra",
        ),
    ],
)
def test_what_is_not_as_in_the_prototxt_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=rf"broken\.caffemodel: {re.escape(message)}$"):
        read_foreign(broken(tmp_path, change), None)
