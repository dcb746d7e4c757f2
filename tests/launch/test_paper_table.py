"""The paper's tables beside measured runs."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import scipy.special

from launch.__main__ import main
from launch.paper_table import recipe_of
from pipeline.config.network import ModelConfig
from pipeline.config.reader import load_members, write_run_config
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR
from pipeline.models.tracing import variant_table
from pipeline.networks.layers import VARIANTS
from pipeline.paper.tables import contents, read_table, table_names
from pipeline.reporting import measured
from pipeline.running.stage import parts_of, place_stages
from pipeline.store.file import sha256_of
from stages import STAGES
from tests.recipes import small_recipe
from tests.sealed import seal_part

MINUS = "\N{MINUS SIGN}"
ERRORS = {"se": (20.0, 21.0), "pre": (19.0, 20.4), "post": (24.0, 23.0)}
"""Top-1 errors of two seeds, by the place of the block."""


def make_run(folder: Path, errors: float | None, images: str = "0" * 64, **sections: Any) -> None:
    """A run as far as `table` looks at it; without errors it is not evaluated."""
    config = small_recipe(folder.parent / "images", **sections)
    write_run_config(folder, config)
    parts = parts_of(place_stages(config, folder, STAGES))
    if errors is not None:
        seal_part(parts["build"], metrics={"parameters": 1234, "gmacs": 0.5})
        plan = {"crops": 1, "top1_error_percent": errors, "top5_error_percent": errors / 4}
        seal_part(parts["evaluate"], metrics={config.evaluate.plans[0].name: plan}, images={"val": images})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of Table 14's variants on a small network; one run is not evaluated."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, values in ERRORS.items():
        for seed, value in enumerate(values):
            se = {"integration": {"se": "standard"}.get(name, name), "bias": False}
            make_run(folder / f"{name}-seed{seed}", value, seed=seed, model={"name": "se_resnet_nano", "se": se})
    make_run(folder / "none", 25.0, model={"name": "resnet_nano"})
    make_run(folder / "waiting", None, model={"name": "se_resnet_nano"})
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["table", *map(str, arguments)]) == EXIT_DONE
    return capsys.readouterr().out


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(printed(capsys, *arguments, "--format", "csv")))
    return {row["row"]: row for row in rows}


def test_all_tables_and_figures_of_the_paper_are_listed_with_command_and_state(capsys) -> None:
    listed = {each.name: each for each in contents()}
    expected = [f"figure{number}" for number in range(1, 9)] + [f"table{number}" for number in range(1, 17)]
    assert list(listed) == expected
    lines = printed(capsys).splitlines()
    for name, each in listed.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert each.title in line
        assert each.command is None or re.search(rf"(python\S* -m launch|senet154) {re.escape(each.command)}", line)
        assert line.rstrip().endswith(("recipe", "not here yet", each.state or "recipe"))
    assert [name for name in expected if listed[name].command is None] == [f"figure{n}" for n in (1, 2, 3, 4, 5, 8)]


def test_tables_without_runs_print_the_papers_figures_and_what_a_run_would_cost(capsys) -> None:
    for name in table_names():
        text = printed(capsys, name)
        for row in read_table(name).rows:
            for figure in (*(row.errors or ()), row.gflops, row.ap, row.ap50, row.parameters):
                assert figure is None or figure in text
    line = next(line for line in printed(capsys, "table2").splitlines() if line.startswith("SE-ResNet-50 "))
    assert line.split()[1:4] == ["23.29", "/", "6.62"]
    assert " configs/paper/table2_se_resnet50.yaml " in line
    assert re.search(r"28,088,024 +3.86 +2.97 EFLOP, 8 h 15 min$", line)


def test_places365_and_coco_are_not_here_yet(capsys) -> None:
    for name in ("table6", "table7"):
        assert "Not here yet: this project has no runs of it." in printed(capsys, name)
    assert main(["table", "table7", "runs/mine"]) == EXIT_USER_ERROR
    assert "table7: not here yet, so that no run is of it (given runs/mine)" in capsys.readouterr().err
    assert main(["table", "table17"]) == EXIT_USER_ERROR
    assert "table17: no table of numbers (there are: table2, " in capsys.readouterr().err
    assert main(["table", "figure6"]) == EXIT_USER_ERROR
    assert (
        "figure6: no table of numbers; gates of four classes in six blocks: of a run with " in capsys.readouterr().err
    )


def test_runs_of_a_sweep_are_compared_with_their_baseline_over_seeds(capsys, sweep: Path) -> None:
    rows = rows_of(capsys, "table14", sweep, sweep / "se-seed0")  # a run given twice counts once
    assert {name: row["runs"] for name, row in rows.items()} == {
        "without the block": "1",
        "SE": "2",
        "SE-PRE": "2",
        "SE-POST": "2",
        "SE-Identity": "0",
    }
    variances = [statistics.variance(values) for values in ERRORS.values()]
    half = scipy.special.stdtrit(3, 0.975) * math.sqrt(statistics.fmean(variances) * (1 / 2 + 1 / 2))
    for name, values in (("SE-PRE", ERRORS["pre"]), ("SE-POST", ERRORS["post"])):
        row = rows[name]
        assert float(row["top1_error_percent"]) == pytest.approx(statistics.fmean(values))
        assert float(row["top1_deviation"]) == pytest.approx(statistics.stdev(values))
        assert float(row["top5_error_percent"]) == pytest.approx(statistics.fmean(values) / 4)
        assert float(row["difference"]) == pytest.approx(statistics.fmean(values) - statistics.fmean(ERRORS["se"]))
        assert float(row["uncertainty"]) == pytest.approx(half, rel=1e-3)
        assert (row["parameters"], row["gmacs"], row["setting"]) == ("1234", "0.5", "resnet_nano on folder, 6 epochs")
    text = printed(capsys, "table14", sweep)
    assert "19.70 ± 0.99" in text
    assert f"{MINUS}0.80 ± {half:.2f} (within it)" in text
    assert f"+3.00 ± {half:.2f} " in text
    assert f"{sweep / 'waiting'}: not evaluated yet" in text


def test_a_run_whose_test_images_have_no_labels_is_not_called_unevaluated(capsys, tmp_path: Path) -> None:
    make_run(tmp_path / "a", 20.0, data={"test": "test"}, evaluate={"split": "test"})
    assert f"{tmp_path / 'a'}: evaluates test images, whose errors are not known" in printed(
        capsys, "table14", tmp_path
    )


def test_one_seed_has_no_known_uncertainty_and_other_settings_are_not_compared(capsys, tmp_path: Path) -> None:
    make_run(tmp_path / "a", 20.0, model={"name": "se_resnet_nano"})
    make_run(tmp_path / "b", 19.0, model={"name": "se_resnet_nano", "se": {"integration": "pre"}})
    make_run(tmp_path / "c", 18.0, model={"name": "se_resnet_nano", "se": {"integration": "post"}}, optim={"lr": 0.07})
    rows = rows_of(capsys, "table14", tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert (rows["SE-PRE"]["difference"], rows["SE-PRE"]["uncertainty"]) == ("-1.0", "")
    assert (rows["SE-POST"]["top1_error_percent"], rows["SE-POST"]["difference"]) == ("18.0", "")
    assert f"{MINUS}1.00 (uncertainty unknown)" in printed(capsys, "table14", tmp_path)


def settings_of(capsys: pytest.CaptureFixture[str], name: str, folder: Path) -> dict[str, tuple[str, str]]:
    """Runs and mean top-1 error by setting."""
    rows = csv.DictReader(io.StringIO(printed(capsys, name, folder, "--format", "csv")))
    return {row["setting"]: (row["runs"], row["top1_error_percent"]) for row in rows if row["runs"] != "0"}


def test_a_training_that_is_evaluated_in_two_directories_is_one_seed(capsys, tmp_path: Path) -> None:
    model = {"name": "se_resnet_nano"}
    make_run(tmp_path / "a", 20.0, model=model)
    shutil.copytree(tmp_path / "a", tmp_path / "copied")
    make_run(tmp_path / "other_batch", 20.5, model=model, evaluate={"batch": 7})
    make_run(tmp_path / "second_seed", 21.0, model=model, seed=2)
    assert settings_of(capsys, "table14", tmp_path) == {"resnet_nano on folder, 6 epochs": ("2", "20.5")}
    text = printed(capsys, "table14", tmp_path)
    for name in ("copied", "other_batch"):
        assert f"{tmp_path / name}: the same training as {tmp_path / 'a'}, and not counted again" in text


def test_runs_that_differ_in_more_than_their_seed_have_lines_of_their_own_that_say_in_what(
    capsys, tmp_path: Path
) -> None:
    model = {"name": "se_resnet_nano"}
    make_run(tmp_path / "a", 20.0, seed=1, model=model)
    make_run(tmp_path / "b", 21.0, seed=2, model=model, images="1" * 64)
    make_run(tmp_path / "c", 22.0, seed=3, model=model, optim={"lr": 0.07})
    flipped = {"name": "flipped", "crops": [{"resize_px": 36, "crop_px": 32, "mirror": True}]}
    make_run(tmp_path / "d", 23.0, seed=4, model=model, evaluate={"plans": [flipped]})
    found = settings_of(capsys, "table14", tmp_path)
    assert sorted(found.values()) == [("1", "20.0"), ("1", "21.0"), ("1", "22.0"), ("1", "23.0")]
    said = {error: setting for setting, (_, error) in found.items()}
    assert "optim.lr 0.05, " in said["20.0"]
    assert "val images 0000000000" in said["20.0"]
    assert "val images 1111111111" in said["21.0"]
    assert "optim.lr 0.07" in said["22.0"]
    assert "'mirror': True" in said["23.0"]


def test_blocks_with_and_without_biases_are_told_apart_and_compared_with_their_own_kind(capsys, tmp_path: Path) -> None:
    for bias, errors in ((True, (20.0, 19.0)), (False, (24.0, 22.0))):
        for place, error in zip(("standard", "pre"), errors, strict=True):
            se = {"integration": place, "bias": bias}
            make_run(tmp_path / f"{place}-{bias}", error, model={"name": "se_resnet_nano", "se": se})
    text = printed(capsys, "table14", tmp_path, "--format", "csv")
    pre = {row["setting"]: row for row in csv.DictReader(io.StringIO(text)) if row["row"] == "SE-PRE"}
    title = "resnet_nano on folder, 6 epochs"
    assert {setting: row["difference"] for setting, row in pre.items()} == {
        f"{title}, with biases": "-1.0",
        f"{title}, without biases": "-2.0",
    }


def test_weights_of_others_are_one_line_each_and_not_averaged(capsys, tmp_path: Path) -> None:
    plan = {"name": "c224", "crops": [{"resize_px": 256, "crop_px": 224}]}
    digests = []
    for number, (name, error) in enumerate((("resnet50", 24.0), ("se_resnet50", 23.0), ("se_resnet50", 22.0))):
        weights = tmp_path / f"{number}.safetensors"
        weights.write_bytes(bytes([number]))
        digests.append(sha256_of(weights)[:10])
        config = small_recipe(
            tmp_path,
            data={"dataset": "imagenet"},
            model={"name": name, "num_classes": 1000},
            evaluate={"weights": str(weights), "plans": [plan]},
        )
        run = tmp_path / "runs" / str(number)
        write_run_config(run, config)
        part = parts_of(place_stages(config, run, STAGES))["evaluate"]
        seal_part(part, metrics={"c224": {"crops": 1, "top1_error_percent": error}})
    text = printed(capsys, "table2", tmp_path / "runs", "--format", "csv")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["runs"] == "1"]
    assert [(row["setting"], row["difference"], row["top1_deviation"]) for row in rows] == [
        (f"imagenet, weights {digests[0]}", "", ""),
        (f"imagenet, weights {digests[1]}", "-1.0", ""),
        (f"imagenet, weights {digests[2]}", "-2.0", ""),
    ]


def test_a_run_of_no_row_and_a_path_that_is_no_run_are_named(capsys, sweep: Path, tmp_path: Path) -> None:
    text = printed(capsys, "table2", sweep / "se-seed0")
    assert f"{sweep / 'se-seed0'}: no row of this table (se_resnet_nano (bias false), folder)" in text
    assert main(["table", "table2", str(tmp_path)]) == EXIT_USER_ERROR
    assert (
        f"{tmp_path}: neither a run directory nor a directory of runs (no config.yaml in it)" in capsys.readouterr().err
    )


def test_networks_of_a_table_are_told_by_name_images_and_crop(capsys, tmp_path: Path) -> None:
    plans = [{"name": "other", "crops": [{"resize_px": 256, "crop_px": 256}]}, "center320", "center224"]
    train = {"image_size_px": 224, "validation": "center224"}
    data, model = {"dataset": "imagenet"}, {"name": "senet154", "num_classes": 1000}
    config = small_recipe(tmp_path, data=data, model=model, train=train, evaluate={"plans": plans})
    write_run_config(tmp_path / "run", config)
    part = parts_of(place_stages(config, tmp_path / "run", STAGES))["evaluate"]
    tops = {"other": 50.0, "center320": 17.5, "center224": 18.5}
    seal_part(part, metrics={name: {"crops": 1, "top1_error_percent": top} for name, top in tops.items()})
    text = printed(capsys, "table8", tmp_path / "run")
    assert re.search(r"SENet-154, 224 px .* 1 +18.50 ", text)
    assert re.search(r"SENet-154, 320 px .* 1 +17.50 ", text)
    assert "no row of this table" in printed(capsys, "table9", tmp_path / "run")


def test_markdown_and_html_have_the_same_cells(capsys, sweep: Path) -> None:
    page = printed(capsys, "table14", sweep, "--format", "markdown").splitlines()
    cells = [line.strip("| ").split(" | ") for line in page if line.startswith("| ")]
    markup = printed(capsys, "table14", sweep, "--format", "html")
    in_html = [re.findall(r"<t[hd]>(.*?)</t[hd]>", html.unescape(line)) for line in re.findall(r"<tr>.*?</tr>", markup)]
    assert [len(row) for row in in_html] == [len(in_html[0])] * 6
    assert [[cell for cell in row if cell] for row in in_html] == [
        [cell.strip() for cell in row if cell.strip()] for row in [cells[0], *cells[2:]]
    ]


def test_quantiles_of_students_t_are_right() -> None:
    for degrees, quantile in enumerate(measured._STUDENTS_T, start=1):
        assert quantile == pytest.approx(scipy.special.stdtrit(degrees, 0.975), abs=5e-4)


@pytest.mark.slow
def test_costs_of_the_ablations_are_traced() -> None:
    """`python -m pipeline.models.tracing` makes them again."""
    assert VARIANTS.read_text() == variant_table()


@pytest.mark.parametrize("name", table_names())
def test_each_of_our_rows_has_a_recipe_that_trains_its_network(name: str) -> None:
    for row in read_table(name).rows:
        path = recipe_of(row)
        assert (path is not None) == (row.model is not None), row.name
        if path is not None:
            trained = {member.config.model.title: member.config for member in load_members(path)}
            assert ModelConfig.of_row(row).title in trained, row.name
            assert len({member.config.seed for member in load_members(path)}) == row.seeds
