from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_plan
from pipeline.config.reader import load_config
from pipeline.paper.statements import read_paper, senet154_errors, statements
from pipeline.reporting.recipe import RecipeRow, center_crop, compare_recipe
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
    items = [statement.item for section in ("training", "evaluation") for statement in statements(section)]
    assert list(rows_of(tmp_path)) == items


@pytest.mark.parametrize(
    ("trained_px", "crop_px", "errors"),
    [(224, 224, (18.68, 4.47)), (224, 320, (17.28, 3.79)), (320, 320, (16.88, 3.58))],
)
def test_the_papers_errors_belong_to_how_the_network_was_trained(
    trained_px: int, crop_px: int, errors: tuple[float, float]
) -> None:
    found = senet154_errors(trained_px, crop_px)
    assert found is not None
    assert (found.top1_percent, found.top5_percent) == errors


@pytest.mark.parametrize(("trained_px", "crop_px"), [(320, 224), (224, 299), (288, 320)])
def test_what_the_paper_did_not_measure_has_no_number(trained_px: int, crop_px: int) -> None:
    assert senet154_errors(trained_px, crop_px) is None


def test_the_papers_tables_are_complete() -> None:
    paper = read_paper()
    assert [len(paper[name]["rows"]) for name in ("table8", "table9")] == [11, 6]
    for row in paper["table8"]["rows"]:
        for size in ("224", "320"):
            assert row[size] is None or float(row[size][0]) > float(row[size][1])


def test_a_centre_crop_is_one_crop_from_the_centre() -> None:
    assert center_crop(builtin_plan("center224")) == (256, 224)
    assert center_crop(builtin_plan("10crop")) is None
    mirrored = CropPlan(name="m", crops=(CropGroup(resize_px=256, crop_px=224, mirror=True),))
    assert center_crop(mirrored) is None


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
