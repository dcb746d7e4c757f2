from __future__ import annotations

import re

import pytest

from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, read_preprocessing
from pipeline.ground.errors import UserError

CAFFE = Preprocessing((123.0, 117.0, 104.0), (1.0, 1.0, 1.0), "bilinear", "padded")


def test_what_is_written_is_what_is_read():
    assert read_preprocessing(CAFFE.metadata(), "w") == CAFFE
    imagenet = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic_antialias")
    assert read_preprocessing(imagenet.metadata() | {"model": "senet154"}, "w") == imagenet


def test_a_file_that_says_nothing_leaves_it_to_the_recipe():
    assert read_preprocessing({"model": "senet154", "num_classes": "1000"}, "w") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": "[1, 2]"}, "w: metadata mean: must be a list of three numbers (given [1, 2])"),
        ({"mean": "nonsense"}, "w: metadata mean: must be a list of three numbers (given nonsense)"),
        ({"mean": "[1, 2, NaN]"}, "w: metadata mean: must be a list of three numbers (given [1, 2, NaN])"),
        ({"std": '["a", 2, 3]'}, 'w: metadata std: must be a list of three numbers (given ["a", 2, 3])'),
        ({"std": "3"}, "w: metadata std: must be a list of three numbers (given 3)"),
        ({"std": "[1, 0, 1]"}, "w: metadata std: must be positive (given [1, 0, 1])"),
        (
            {"resize": "nearest"},
            "w: metadata resize: must be one of bilinear_antialias, bilinear, bicubic_antialias (given nearest)",
        ),
        ({"max_pool": "floor"}, "w: metadata max_pool: must be one of ceil, padded (given floor)"),
    ],
)
def test_what_no_preprocessing_can_be_is_refused(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_preprocessing(CAFFE.metadata() | change, "w")


def test_half_a_preprocessing_is_refused():
    metadata = CAFFE.metadata()
    del metadata["std"], metadata["max_pool"]
    with pytest.raises(UserError, match="w: metadata has mean, resize, and not std, max_pool; all four go together"):
        read_preprocessing(metadata, "w")


def test_people_are_told_in_one_line():
    assert CAFFE.sentence() == "RGB mean (123, 117, 104), std (1, 1, 1) of 255; resized by bilinear; max-pool padded"
