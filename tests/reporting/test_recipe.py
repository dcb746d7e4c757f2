from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_plan
from pipeline.config.reader import load_config
from pipeline.paper.statements import statements
from pipeline.reporting.recipe import RecipeRow, compare_recipe
from pipeline.reporting.results import describe_crops
from tests.conftest import REPOSITORY
from tests.reporting.example_run import make_config, make_run, read_record


def rows_of(folder: Path, **sections: object) -> dict[str, RecipeRow]:
    config = make_config(folder, **sections)
    record = read_record(config, make_run(folder, config))
    return {row.item: row for row in compare_recipe(record)}


def test_rows_that_differ_are_marked_and_those_left_open_too(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    assert (rows["Global batch"].verdict, rows["Global batch"].paper, rows["Global batch"].run) == (
        "differs",
        "2048",
        "64",
    )
    assert {item for item, row in rows.items() if row.verdict == "same"} == {
        "Reduction ratio r",
        "Dropout before the classifier",
        "Initialisation",
        "Random crop",
        "Random horizontal flip",
        "Optimiser",
        "Label smoothing",
        "Batch norms frozen",
    }
    assert (rows["Epochs"].verdict, rows["Epochs"].paper, rows["Epochs"].run) == ("open", None, "5")
    assert rows["Learning-rate schedule"].run == "times 0.1 after epochs 3"
    assert rows["Epochs with frozen batch norms"].run == "the last 2 epochs"
    assert rows["Images per batch norm"].run == "32"


def test_the_contest_recipe_differs_only_where_it_says_so(tmp_path: Path) -> None:
    recipe = load_config(REPOSITORY / "configs" / "senet154_ilsvrc2017.yaml", [f"data.root={tmp_path / 'images'}"])
    rows = rows_of(tmp_path, **recipe.model_dump(exclude={"name", "tracking"}))
    differing = {item for item, row in rows.items() if row.verdict == "differs"}
    # The example has a world size of one, and one network; the recipe itself divides by the deviation.
    assert differing == {"Normalisation", "World size", "Networks in the contest entry"}
    assert rows["Crop at 320 px"].run == "centre 320 px of 320, 352, 366 px"


def test_every_statement_of_the_paper_has_one_row(tmp_path: Path) -> None:
    assert list(rows_of(tmp_path)) == [statement.item for statement in statements(())]


@pytest.mark.parametrize(
    ("name", "network", "differing"),
    [
        ("table2_resnet50", "ResNet-50", {"Normalisation"}),
        ("table2_se_inception_resnet_v2", "SE-Inception-ResNet-v2", {"Normalisation"}),
        ("table3_se_mobilenet_v1", "SE-MobileNet", {"Normalisation"}),
        ("table4_se_preresnet110", "SE-ResNet-110", set()),
        (
            "table5_shake_even29_2x4x64d",
            "Shake-Even 29 2\N{MULTIPLICATION SIGN}4\N{MULTIPLICATION SIGN}64d + Cutout",
            set(),
        ),
    ],
)
def test_the_recipe_of_a_network_is_compared_with_what_the_paper_says_of_it(
    tmp_path: Path, name: str, network: str, differing: set[str]
) -> None:
    """Recipes divide by the deviation, and the example has images of its own and a world size of one."""
    recipe = load_config(REPOSITORY / "configs" / "paper" / f"{name}.yaml", [f"data.root={tmp_path / 'images'}"])
    rows = rows_of(tmp_path, **recipe.model_dump(exclude={"name", "tracking", "data"}))
    assert (rows["Network"].paper, rows["Network"].verdict) == (network, "same")
    assert {item for item, row in rows.items() if row.verdict == "differs"} - {
        "Training images",
        "World size",
    } == differing
    assert "Networks in the contest entry" not in rows
    assert ("Reduction ratio r" in rows) == name.partition("_")[2].startswith("se_")


def test_a_centre_crop_is_one_crop_from_the_centre() -> None:
    assert builtin_plan("center224").center_crop == (256, 224)
    assert builtin_plan("10crop").center_crop is None
    mirrored = CropPlan(name="m", crops=(CropGroup(resize_px=256, crop_px=224, mirror=True),))
    assert mirrored.center_crop is None


def test_crops_are_described_in_words() -> None:
    assert describe_crops(builtin_plan("10crop")) == "4 corners and centre 224 of 256 px, and mirrored"
    assert describe_crops(builtin_plan("144crop")) == (
        "4 corners, centre and whole of 3 squares, 224 of 256, 224 of 288, 224 of 320, 224 of 352 px, and mirrored"
    )
    assert describe_crops(builtin_plan("dense")) == "all of the image at 320 px, and mirrored"
    logits = CropPlan(name="one", averaging="logits", crops=(CropGroup(resize_px=40, crop_px=40, squares=("first",)),))
    assert describe_crops(logits) == "the first square 40 of 40 px; logits averaged"
    crops = (CropGroup(resize_px=40, crop_px=32), CropGroup(resize_px=48, crop_px=32))
    assert describe_crops(CropPlan(name="two", crops=crops)) == "centre 32 of 40, 32 of 48 px"


def test_padded_crops_and_cutout_are_not_taken_for_the_papers(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, augmentation={"crop": "padded", "cutout_px": 16})
    crop = rows["Random crop"]
    assert crop.verdict == "differs"
    assert crop.run.endswith("px of the image and 4 px around it (zero); a square of 16 px left out (Cutout)")
