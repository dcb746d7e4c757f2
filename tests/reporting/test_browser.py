"""The report in a real browser, offline: what a reader would see."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.page import render_report
from pipeline.running.stage import part_names
from stages import STAGES
from tests.browser import DARK, browse, find_chromium, screenshot
from tests.reporting.example_run import make_config, make_run, read_record
from tests.reporting.measured_gates import measured

# Only in the copy that tests look into: the report itself has no script, and a policy that would stop one. The copy is
# seen through a frame, since a window cannot be narrower than 500 px.
PROBE = """
<script>
addEventListener("load", () => {
  const all = selector => [...document.querySelectorAll(selector)];
  parent.postMessage({
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    images: document.images.length,
    broken: all("img").filter(image => !image.complete || image.naturalWidth === 0).length,
    cut: all("section > *, header > *, .columns > *")
      .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5).length,
    unaligned: all("td.number").filter(cell => getComputedStyle(cell).textAlign !== "right").length,
    smallest: Math.min(...all(".plot text").map(text => {
      const scale = text.getScreenCTM();
      return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b);
    })),
    written: getComputedStyle(document.querySelector(".plot text")).fill,
    background: getComputedStyle(document.body).backgroundColor,
    requests: performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length,
  }, "*");
});
</script>
"""
FRAME = """
<!DOCTYPE html>
<pre id="facts"></pre>
<script>addEventListener("message", event => facts.textContent = JSON.stringify(event.data));</script>
<iframe src="probed.html" style="border: 0; width: WIDTHpx; height: 2000px"></iframe>
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    config = make_config(folder)
    record = dataclasses.replace(read_record(config, make_run(folder, config)), gates=measured(folder / "gates"))
    path = folder / "report.html"
    path.write_text(render_report(record, tuple(name for stage in STAGES for name in part_names(stage))).html)
    return path


def facts_of(chromium: str, page: Path, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """What a page says of its own layout at that width."""
    without_policy = re.sub("<meta http-equiv[^>]*>", "", page.read_text())
    (folder / "probed.html").write_text(without_policy.replace("</body>", PROBE + "</body>"))
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    done = browse(chromium, frame, folder / "profile", "--window-size=1400,2000", "--dump-dom", *flags)
    found = re.search(r'<pre id="facts">(.+?)</pre>', done.stdout)
    assert found is not None, done.stderr
    return dict(json.loads(found[1]))


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off_at_the_side(chromium: str, page: Path, tmp_path: Path, width: int) -> None:
    facts = facts_of(chromium, page, tmp_path, width)
    assert facts["width"] == width
    assert facts["page"] <= width, "the page scrolls sideways"
    assert facts["cut"] == 0
    assert 8.5 < facts["smallest"] < 14, "text in the plots, in pixels"


def test_every_image_is_shown_numbers_are_aligned_and_nothing_is_fetched(
    chromium: str, page: Path, tmp_path: Path
) -> None:
    facts = facts_of(chromium, page, tmp_path, 1280)
    assert facts["images"] > 5
    assert (facts["broken"], facts["unaligned"], facts["requests"]) == (0, 0, 0)


def test_the_page_follows_the_readers_dark_mode(chromium: str, page: Path, tmp_path: Path) -> None:
    light, dark = (facts_of(chromium, page, tmp_path, 1280, *flags) for flags in ((), (DARK,)))
    assert (light["background"], dark["background"]) == ("rgb(255, 255, 255)", "rgb(21, 25, 31)")
    assert (light["written"], dark["written"]) == ("rgb(28, 33, 40)", "rgb(223, 228, 234)"), "text in the plots"


def test_the_browser_has_nothing_to_complain_about(chromium: str, page: Path, tmp_path: Path) -> None:
    done = browse(chromium, page, tmp_path / "profile", "--window-size=1280,2000", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    assert '<section id="provenance">' in done.stdout


def test_the_browser_does_complain_where_the_policy_is_broken(chromium: str, page: Path, tmp_path: Path) -> None:
    """So that the test above can fail."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</body>", '<img src="https://example.org/x.png"></body>'))
    done = browse(chromium, broken, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" in done.stderr
    assert "Content Security Policy" in done.stderr


def test_a_screenshot_shows_a_page(chromium: str, page: Path, tmp_path: Path) -> None:
    image = screenshot(chromium, page, tmp_path, 400, 1200)
    assert image.size == (400, 1200)
    colours = image.getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 100
