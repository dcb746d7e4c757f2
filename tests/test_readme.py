"""Links, paths and commands in the README and all other documents are those of the program."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.command import parse
from launch.slurm.profile import load_profile
from pipeline.bench.__main__ import main as measure
from pipeline.config.keys import all_keys
from pipeline.config.reader import load_members
from pipeline.paper.tables import table_names
from pipeline.running.stage import Stage
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.test_architecture import ROOMS

README = REPOSITORY / "README.md"
COMMAND = re.compile(r"^(?:\$ )?((?:[A-Z_]+=\S+ )*(?:\S*python3?|senet154|make)\b.*)$")
GLOSSARY = REPOSITORY / "docs" / "glossary.md"
FOLDERS = ("configs", "docs", "launch", "pipeline", "slurm", "stages", "tests")
DOCUMENTS = (
    README,
    *sorted(REPOSITORY.glob("C*.md")),
    *sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.md")),
)


@pytest.fixture(scope="module")
def text() -> str:
    """The text of all documents, one after another."""
    return "\n".join(document.read_text() for document in DOCUMENTS)


def commands(text: str) -> list[list[str]]:
    """Every command in a code block that is ours to check, as words; continued lines joined, comments cut."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in ("", "bash")]
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(match[1], comments=True) for line in lines if (match := COMMAND.match(line))]
    return [[word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word) or words[0] == "make"] for words in found]


def launch_commands(text: str) -> dict[tuple[str, ...], None]:
    """What follows `python -m launch` or `senet154` in each command, once."""
    after = [words[1:] if words[0] == "senet154" else words[3:] for words in commands(text) if is_launch(words)]
    return dict.fromkeys(tuple(arguments) for arguments in after if arguments)


def is_launch(words: list[str]) -> bool:
    return words[0] == "senet154" or words[1:3] == ["-m", "launch"]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every link into the project, the anchor perhaps empty."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (document.parent / path).resolve() if path else document, anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(REPOSITORY)))
def test_links_lead_to_files_and_headings_that_exist(document):
    for file, anchor in links(document):
        assert file.is_file(), f"link to {file}: no file, and a site has no folders"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), f"link to {file}#{anchor}"


def test_paths_of_the_project_that_are_named_exist(text):
    names = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text)
    placeholders = [name for name in names if re.search("NAME|SECTION|FAMILY", name)]
    assert placeholders, "CONTRIBUTING.md names the files to add"
    for name in names:
        assert (REPOSITORY / name).exists() or (name in placeholders and (REPOSITORY / name).parent.exists()), name


def test_recipes_that_are_named_exist(text):
    names = set(re.findall(r"configs/[\w./*-]+\.ya?ml", text))
    assert any("/small/" in name for name in names), "recipes in folders are named, too"
    for name in names - {"configs/NAME.yaml"}:
        assert any(REPOSITORY.glob(name)), name


def test_the_readme_leads_to_every_recipe_and_document():
    reached, ahead = {README}, [README]
    while ahead:
        new = {file for file, _ in links(ahead.pop())} - reached
        reached |= new
        ahead += [file for file in new if file.suffix == ".md"]
    for file in (*sorted((REPOSITORY / "configs").glob("*.yaml")), *DOCUMENTS):
        assert file in reached, file.relative_to(REPOSITORY)


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_site_has_every_document():
    site = (REPOSITORY / "docs" / "mkdocs.yml").read_text()
    pages = re.findall(r": ([\w/]+\.md)$", site, re.MULTILINE)
    assert sorted(pages) == sorted(str(document.relative_to(REPOSITORY)) for document in DOCUMENTS)


def test_keys_that_are_named_exist():
    keys = all_keys()
    sections = "|".join({key.partition(".")[0] for key in keys if "." in key})
    text = "\n".join(document.read_text() for document in DOCUMENTS if document.name != "CHANGELOG.md")
    of_version_0_1 = {"data.mean", "data.std", "freeze_bn.last_epochs"}
    for name in set(re.findall(rf"`((?:{sections})\.(?!html)[a-z_0-9.]+)", text)) - of_version_0_1:
        assert name in keys or any(key.startswith(f"{name}.") for key in keys), name


def test_make_targets_that_are_named_exist(text):
    targets = set(re.findall(r"^([a-z][a-z_-]*):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z_-]+)", text)) | {
        word for words in commands(text) if words[0] == "make" for word in words[1:] if re.fullmatch("[a-z_-]+", word)
    }
    assert {"demo", "test"} <= named
    assert named <= targets


def test_launch_commands_are_understood(text):
    given = launch_commands(text)
    assert given, "the README shows no launch command"
    for arguments in given:
        parsed = parse(arguments)
        if parsed.command == "submit":
            load_profile(REPOSITORY / parsed.profile)
        if parsed.command in ("plan", "run", "submit") and (REPOSITORY / parsed.config).is_file():
            overrides = [override for override in parsed.overrides if "..." not in override]
            load_members(REPOSITORY / parsed.config, overrides)


def test_commands_that_touch_nothing_answer(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("configs", "slurm"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    asked = [
        arguments
        for arguments in launch_commands(text)
        if (arguments[0] in ("keys", "networks", "plan") or "--dry-run" in arguments)
        and "--simulate" not in arguments
        and not re.search(r"\.\.\.|\.safetensors|\.tar\.gz", shlex.join(arguments))  # names a file that must be there
    ]
    assert {arguments[0] for arguments in asked} == {"keys", "networks", "plan", "submit"}
    for arguments in asked:
        assert main(arguments) == 0, f"{shlex.join(arguments)}: {capsys.readouterr().err}"
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "slurm"}


def test_benchmark_commands_are_understood(text, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # set by `main`
    monkeypatch.setattr("pipeline.bench.__main__.answered", lambda work: 0)
    given = [words[3:] for words in commands(text) if words[1:3] == ["-m", "pipeline.bench"]]
    assert given, "docs/benchmarks.md shows no command"
    for arguments in given:
        assert measure(arguments) == 0, shlex.join(arguments)


def test_modules_that_are_run_exist(text):
    named = {words[2] for words in commands(text) if words[1:2] == ["-m"]}
    assert {"launch", "stages"} <= named
    for name in named:
        assert importlib.util.find_spec(name), name


def test_stage_commands_name_stages(text):
    names = {stage.name for stage in STAGES}
    for words in commands(text):
        if words[1:3] == ["-m", "stages"] and not words[3].isupper():
            assert words[3] in names, shlex.join(words)


def test_every_stage_has_a_row_in_the_table_of_stages():
    page = (REPOSITORY / "docs" / "runs.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page.partition("## Stages")[2].partition("## ")[0], re.MULTILINE)
    assert rows == [stage.name for stage in STAGES]


def test_every_field_of_a_stage_s_declaration_is_explained():
    explained = set(re.findall(r"`(\w+)`", (REPOSITORY / "CONTRIBUTING.md").read_text()))
    assert {field.name for field in dataclasses.fields(Stage)} <= explained


def test_the_documents_order_the_packages_as_the_test_of_imports_does():
    order = [room.removeprefix("pipeline.") for room in ROOMS]
    (line,) = re.findall(r"^launch > .*?\n\n", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [name.strip().removeprefix("pipeline.") for name in line.split(">")] == order
    drawing = re.findall(r"^ *([a-z]+)/  ", (REPOSITORY / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert [name for name in drawing if name not in ("pipeline", "slurm")] == order


def test_every_table_of_the_paper_is_among_what_was_reproduced_or_not():
    text = (REPOSITORY / "docs" / "results.md").read_text().partition("## The target")[0]
    ranges = re.findall(r"^\| Tables? (\d+)(?: (?:and|to) (\d+))?|; Table (\d+)", text, re.MULTILINE)
    named = {n for first, last, other in ranges for n in range(int(first or other), int(last or first or other) + 1)}
    assert {f"table{number}" for number in named - {1}} == set(table_names())


def test_the_citation_is_of_the_newest_release():
    cited = (REPOSITORY / "CITATION.cff").read_text()
    version, date = re.findall(r"^## \[(.*)\] - (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert f"\nversion: {version}\ndate-released: {date}\n" in cited


def test_the_glossary_is_short_and_sorted():
    terms = re.findall(r"^\| (\w[^|]*) \|", GLOSSARY.read_text(), re.MULTILINE)[1:]
    assert 20 <= len(terms) <= 30
    assert terms == sorted(terms)


def test_scratch_paths_of_one_machine_are_not_in_it(text):
    assert not re.search(rf"(?<![\w.]){re.escape(str(Path.home()))}/", text)
