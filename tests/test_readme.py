"""Links, paths and commands in the README and all other documents are those of the program."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.command import parse
from launch.slurm.profile import load_profile
from pipeline.config.reader import load_config
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


def launch_arguments(words: list[str]) -> list[str] | None:
    """What follows `python -m launch` or `senet154`; None for another command."""
    if words[0] == "senet154":
        return words[1:]
    return words[3:] if words[1:3] == ["-m", "launch"] else None


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
    names = set(re.findall(r"configs/[\w.-]+\.ya?ml", text))
    assert names, "the README names no recipe"
    for name in names - {"configs/NAME.yaml"}:
        assert (REPOSITORY / name).is_file(), name


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


def test_make_targets_that_are_named_exist(text):
    targets = set(re.findall(r"^([a-z][a-z_-]*):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z_-]+)", text)) | {
        word for words in commands(text) if words[0] == "make" for word in words[1:] if re.fullmatch("[a-z_-]+", word)
    }
    assert {"demo", "test"} <= named
    assert named <= targets


def test_launch_commands_are_understood(text):
    checked = 0
    for words in commands(text):
        arguments = launch_arguments(words)
        if arguments is None or not arguments:
            continue
        parsed = parse(arguments)
        checked += 1
        if parsed.command == "submit":
            load_profile(REPOSITORY / parsed.profile)
        if parsed.command in ("plan", "run", "submit") and (REPOSITORY / parsed.config).is_file():
            overrides = [override for override in parsed.overrides if "..." not in override]
            load_config(REPOSITORY / parsed.config, overrides)
    assert checked, "the README shows no launch command"


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


def test_the_glossary_is_short_and_sorted():
    terms = re.findall(r"^\| (\w[^|]*) \|", GLOSSARY.read_text(), re.MULTILINE)[1:]
    assert 20 <= len(terms) <= 30
    assert terms == sorted(terms)


def test_scratch_paths_of_one_machine_are_not_in_it(text):
    assert not re.search(rf"(?<![\w.]){re.escape(str(Path.home()))}/", text)
