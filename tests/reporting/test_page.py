from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.schema import Config
from pipeline.data.places import Source
from pipeline.reporting.confusion import confusions
from pipeline.reporting.page import Report, render_report
from pipeline.reporting.plots import Plot
from pipeline.reporting.record import RunRecord
from pipeline.running.stage import part_names
from stages import STAGES
from tests.reporting.example_run import HOSTILE, NAMES, make_config, make_run, read_record

pytestmark = pytest.mark.slow

PLOTS = [
    "calibration_center32.png",
    "calibration_fused.png",
    "cost.png",
    "crops.png",
    "images_per_second.png",
    "loss.png",
    "lr.png",
    "validation.png",
]
ORDER = tuple(name for stage in STAGES for name in part_names(stage))


def record_of(folder: Path, config: Config, **options: Any) -> RunRecord:
    return read_record(config, make_run(folder, config, **options))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("example")
    return record_of(folder, make_config(folder))


@pytest.fixture(scope="module")
def report(record: RunRecord) -> Report:
    return render_report(record, ORDER)


@pytest.fixture
def undrawn(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots stay blank, which saves seconds, where a test reads words and the same data is drawn for `report`."""
    blank = next(iter(report.plots.values()))
    monkeypatch.setattr(Plot, "png", lambda plot: blank)
    monkeypatch.setattr(Plot, "svg", lambda plot: "<svg aria-hidden='true'></svg>")


class Elements(HTMLParser):
    """Every attribute that can load something, every element name, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.ids: set[str] = set()
        self.sections: list[str] = []
        self.plots: list[str] = []
        """Of every drawing with words: what they are an id of."""
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden = tag == "style"
        given = dict(attributes)
        if tag == "section":
            self.sections.append(given["id"] or "")
        if tag == "svg" and given.get("aria-hidden") != "true":
            assert given["role"] == "img"
            self.plots.append((given["aria-labelledby"] or "").removeprefix("plot-"))
        if tag == "img":
            assert given["alt"]
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster", "background"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_loads_nothing_from_anywhere(report: Report) -> None:
    page = Elements(report.html)
    assert "script" not in page.tags
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address
    assert not re.search(r"url\((?!#)", report.html), "clips of the plots are in the page"
    assert "@import" not in report.html
    assert "default-src 'none'" in report.html


def test_every_link_inside_the_page_leads_somewhere(report: Report) -> None:
    page = Elements(report.html)
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids


def test_every_picture_has_words(report: Report) -> None:
    page = Elements(report.html)
    assert sorted(f"{name}.png" for name in page.plots) == PLOTS
    assert {f"plot-{name}" for name in page.plots} <= page.ids
    assert "Training loss by epoch: 3 at first, 0.06 at the end, between 0.06 and 3" in page.text
    assert f'alt="{html.escape(NAMES[2])}, taken for ' in report.html


def test_the_plots_have_the_colours_and_the_fonts_of_the_page(report: Report) -> None:
    drawings = re.findall(r"<svg.+?</svg>", report.html, re.DOTALL)
    assert len(drawings) > len(PLOTS)
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}|font-family", drawing)
    known = set(re.findall(r"(--\w+): #", report.html))
    assert set(re.findall(r"var\((--\w+)\)", "".join(drawings))) <= known
    identities = re.findall(r'\bid="([^"]+)"', report.html)
    assert len(identities) == len(set(identities))


def test_the_page_is_small(report: Report) -> None:
    without_photographs = re.sub(r"data:image/jpeg;base64,[^\"]+", "", report.html)
    assert len(without_photographs) < 150_000


def test_every_embedded_image_can_be_decoded(report: Report) -> None:
    pictures = re.findall(r"data:(image/\w+);base64,([A-Za-z0-9+/=]+)", report.html)
    assert len(pictures) > 10
    for media_type, content in pictures:
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.load()
            assert media_type == f"image/{str(image.format).lower()}"


def test_names_from_the_data_are_shown_and_never_interpreted(report: Report) -> None:
    assert "<script" not in report.html
    assert report.html.count(html.escape(HOSTILE, quote=False).replace('"', "&#34;").replace("'", "&#39;")) >= 2
    assert HOSTILE.replace("  ", " ") in Elements(report.html).text


def test_names_in_any_script_are_text_of_the_page(report: Report) -> None:
    worst = html.unescape(report.html[report.html.index('id="classes"') : report.html.index("All 6 classes")])
    for name in NAMES.values():
        assert f'<th scope="row">{name}</th>' in worst


def test_every_result_is_there_with_two_decimals(record: RunRecord, report: Report) -> None:
    text = Elements(report.html).text
    for plan in record.results["plans"]:
        for k in (1, 5):
            assert f"{plan[f'top{k}_error_percent']:.2f}" in text
        assert plan["name"] in text


def test_every_class_is_in_the_table(record: RunRecord, report: Report) -> None:
    text = Elements(report.html).text
    for row in record.class_errors:
        assert row.folder in text
        assert f"{row.top1_error_percent:.2f}" in text


def test_the_papers_tables_are_there_as_printed(report: Report) -> None:
    text = Elements(report.html).text
    assert "SENet-154 224 18.68 4.47 SENet-154 320 17.28 3.79" in text
    assert "SENet-154 (trained at 320 px) 320 16.88 3.58" in text
    assert "ResNet-152 224 23.0 6.7 ResNet-152 320 21.3 5.5" in text
    assert "2.251 % top-5" in text


def test_where_every_stage_ran_is_told(record: RunRecord, report: Report) -> None:
    text = Elements(report.html).text
    for name, stage in record.stages.items():
        made = stage.provenance
        assert f"{name} {stage.key}" in text
        assert made["host"] in text
        assert f"torch {made['packages']['torch']}" in text


def test_the_mistakes_are_pictures_with_both_classes_and_the_probability(record: RunRecord, report: Report) -> None:
    text = Elements(report.html).text
    first = record.results["plans"][0]["mistakes"][0]
    true, predicted = (record.val.classes[first[name]] for name in ("label", "predicted"))
    assert f"true {true.words} rank {first['label_rank'] + 1} predicted {predicted.words}" in text
    assert f"{predicted.words} {100 * first['probability']:.1f} %" in text
    confused = confusions(record.rankings["center32"])
    assert len(confused) > 3
    assert report.html.count("data:image/jpeg") == len(record.results["plans"][0]["mistakes"]) + len(confused)


@pytest.mark.usefixtures("undrawn")
def test_an_image_that_is_gone_leaves_its_words(record: RunRecord, tmp_path: Path) -> None:
    val = dataclasses.replace(record.val, source=Source("folders", tmp_path))
    moved = dataclasses.replace(record, indexes={**record.indexes, "val": val})
    page = render_report(moved, ORDER).html
    assert "the image file is gone" in page
    assert "data:image/jpeg" not in page


def test_the_same_run_gives_the_same_page_and_plots(record: RunRecord, report: Report) -> None:
    assert render_report(record, ORDER) == report


def test_plots_are_files_too(report: Report) -> None:
    assert sorted(report.plots) == PLOTS
    for content in report.plots.values():
        assert content.startswith(b"\x89PNG")


def test_results_come_first_and_the_paper_is_folded_away_if_nothing_can_be_compared_with_it(report: Report) -> None:
    page = Elements(report.html)
    assert page.sections[:3] == ["results", "classes", "confusions"]
    assert page.sections.index("paper") > page.sections.index("ensemble")
    assert "The images are folder, not ImageNet" in page.text
    assert page.text.index("The paper's results and recipe, for reference") < page.text.index("ResNet-152 224 23.0 6.7")
    assert "This run, center32" not in page.text


def test_a_run_without_frozen_batch_norms_is_reported(tmp_path: Path) -> None:
    train = make_config(tmp_path).train.model_copy(update={"frozen_epochs": 0})
    config = make_config(tmp_path, train=train)
    text = Elements(render_report(record_of(tmp_path, config), ORDER).html).text
    assert "for 5 epochs; evaluated" in text
    assert "not frozen" in text


def test_weights_from_a_file_are_reported_without_training(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    config = make_config(
        tmp_path,
        evaluate={"weights": str(weights), "plans": [{"name": "c", "crops": [{"resize_px": 32, "crop_px": 32}]}]},
    )
    report = render_report(record_of(tmp_path, config), ORDER)
    page = Elements(report.html)
    assert "with weights from a file" in page.text
    assert "how they were trained is not known" in page.text
    assert "Weight decay" not in page.text
    assert {"training", "network"}.isdisjoint(page.ids)
    assert sorted(report.plots) == [
        "calibration_c.png",
        "calibration_fused.png",
        "cost.png",
        "crops.png",
    ]


def test_imagenet_stands_beside_the_papers_numbers(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        data={"dataset": "imagenet", "root": str(tmp_path / "images")},
        model={"name": "senet154", "num_classes": 1000},
        train={"epochs": 5, "global_batch": 64, "max_micro_batch": 32},
        evaluate={"plans": ["center224", "center320", "10crop"]},
    )
    record = record_of(tmp_path, config)
    page = Elements(render_report(record, ORDER).html)
    assert page.sections[:2] == ["results", "paper"]
    assert "for reference" not in page.text
    assert "classes" in page.plots, "how many of the 1,000 classes have which error"
    assert "18.68 4.47 Table 8, 224 px" in page.text
    assert "17.28 3.79 Table 8, 320 px" in page.text
    assert page.text.count("no counterpart") == 2, "the ten crops and the fusion"
    plans = record.results["plans"]
    own = "This run, center224 {top1_error_percent:.2f} {top5_error_percent:.2f}".format(**plans[0])
    assert own in page.text
    assert "All 1,000 classes" in page.text


def test_a_run_without_a_mistake_says_so(record: RunRecord) -> None:
    plans = [{**plan, "mistakes": []} for plan in record.results["plans"]]
    classes = tuple(dataclasses.replace(row, top1_errors=0, top5_errors=0) for row in record.class_errors)
    rankings = {
        name: dataclasses.replace(ranking, ranks=np.zeros_like(ranking.ranks), predicted=ranking.labels)
        for name, ranking in record.rankings.items()
    }
    perfect = dataclasses.replace(
        record, results={**record.results, "plans": plans}, class_errors=classes, rankings=rankings
    )
    text = Elements(render_report(perfect, ORDER).html).text
    assert "every validation image was classified correctly" in text
    assert "No class has an error." in text
    assert "None: no class was taken for another." in text


def test_the_findings_of_prepare_are_listed(report: Report) -> None:
    text = Elements(report.html).text
    assert "The check of every file found 1 duplicate." in text
    assert "the same bytes as train/0.jpg" in text
    assert "60 grey" in text


def test_tables_for_wandb_have_plain_values(report: Report, record: RunRecord) -> None:
    table = report.tables["results"]
    assert [row[0] for row in table["rows"]] == ["center32", "flipped", "fused"]
    assert [row[0] for row in report.tables["ensemble"]["rows"]] == ["center32", "flipped"]
    predictions = report.tables["predictions"]["rows"]
    assert len(predictions) == len(record.val)
    ranking = record.rankings["center32"]
    assert [row[4] == 1 for row in predictions] == (ranking.ranks == 0).tolist()
    mistakes = report.tables["mistakes"]["rows"]
    assert len(mistakes) == len(record.results["plans"][0]["mistakes"])
    assert all(row[0].startswith("data:image/jpeg;base64,") for row in mistakes)
    for name, found in report.tables.items():
        assert {len(row) for row in found["rows"]} == {len(found["columns"])}, name
    json.dumps(report.tables, allow_nan=False)


def test_the_ensemble_is_told_with_its_members(record: RunRecord, report: Report) -> None:
    text = Elements(report.html).text
    fused = record.fusion["errors"]["top1"]
    assert f"fused {fused['percent']:.2f} [{fused['low']:.2f}, {fused['high']:.2f}]" in text
    for member in record.fusion["members"]:
        alone = member["alone"]["top1"]
        assert f"{member['name']} {member['weight']:.3f} {alone['percent']:.2f}" in text
    for k, gain in record.fusion["gain_over_best_member"].items():
        best = record.fusion["members"][record.fusion["best_member"][k]]["name"]
        said = f"{gain['percent']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f}) in top-{k[3:]} error ({best})"
        assert said in text
    assert f"{record.fusion['disagreement_percent'][0][1]:.2f}" in text
    assert "There are no contest files: data.dataset is folder, not imagenet." in text


@pytest.mark.usefixtures("undrawn")
def test_a_choice_of_members_is_told_with_how_it_was_judged(tmp_path: Path) -> None:
    config = make_config(tmp_path, fuse={"selection": "greedy"})
    text = Elements(render_report(record_of(tmp_path, config), ORDER).html).text
    assert "no image is judged by weights it helped to choose" in text
    assert "The two halves have a top-1 / top-5 error of" in text


@pytest.mark.usefixtures("undrawn")
def test_the_cost_of_every_plan_is_told(record: RunRecord, report: Report) -> None:
    text = Elements(report.html).text
    plan = record.results["plans"][0]
    assert f"{plan['images'] / plan['seconds']:,.1f} 1 {plan['seconds']:,.1f}" in text
    assert "Process-seconds" in text
    on_gpu = dataclasses.replace(record, results={**record.results, "device": "NVIDIA H100"})
    assert "GPU-seconds" in Elements(render_report(on_gpu, ORDER).html).text
