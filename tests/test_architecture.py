"""The rules that hold the packages apart, read from the source itself."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.reader import load_members
from pipeline.networks.registry import NETWORKS
from pipeline.running.stage import part_names
from stages import STAGES
from tests.config.pinned import RECIPES, named
from tests.conftest import REPOSITORY

SOURCES = sorted(path for package in ("pipeline", "stages", "launch") for path in (REPOSITORY / package).rglob("*.py"))
ROOMS = (
    "launch",
    "stages",
    "pipeline.bench",
    "pipeline.reporting",
    "pipeline.running",
    "pipeline.training",
    "pipeline.engines",
    "pipeline.evaluation",
    "pipeline.interop",
    "pipeline.data",
    "pipeline.tracking",
    "pipeline.models",
    "pipeline.config",
    "pipeline.networks",
    "pipeline.paper",
    "pipeline.store",
    "pipeline.ground",
)
"""From the top: each imports only what stands below it. `docs/architecture.md` has the same order."""
WITHOUT_TORCH = (
    "launch/**/*.py",
    "stages/__init__.py",
    "pipeline/config/*.py",
    "pipeline/networks/*.py",
    "pipeline/paper/*.py",
    "pipeline/store/*.py",
    "pipeline/tracking/*.py",
    "pipeline/interop/known.py",
    "pipeline/running/provenance.py",
    "pipeline/ground/seeds.py",
)
"""What must answer at once where there is no GPU, and perhaps no torch; so what these import must, too."""
WRITERS = {"fsync", "fdatasync", "flock", "lockf", "truncate", "ftruncate"}
"""Calls by which something is written whole: in the store alone. So are `os.replace`, `os.rename` and `os.link`."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "tools"}


def package_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).parts[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_below_it(room):
    allowed = {None, *ROOMS[ROOMS.index(room) :]}
    wrong = {
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in SOURCES
        if room_of(module_of(path)) == room
        for module in imported_modules(path)
        if room_of(module) not in allowed or module.partition(".")[0] == "tests"
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_every_module_is_in_a_room():
    known = {room_of(module_of(path)) for path in SOURCES if module_of(path) != "pipeline"}
    assert known == set(ROOMS)


def test_launch_knows_the_stages_by_their_declarations_only():
    for path in SOURCES:
        if package_of(path) == "launch":
            modules = {module for module in imported_modules(path) if module.partition(".")[0] == "stages"}
            assert modules <= {"stages"}, path


def test_only_the_store_knows_how_something_is_written_whole():
    wrong = set()
    for path in SOURCES:
        if room_of(module_of(path)) == "pipeline.store":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called, owner = node.func.attr, ast.unparse(node.func.value)
                if called in WRITERS or (owner == "os" and called in ("replace", "rename", "link")):
                    wrong.add(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {owner}.{called}")
    assert not wrong, "\n".join(sorted(wrong))


def test_what_runs_on_a_login_node_does_not_import_torch():
    modules = sorted(module_of(path) for pattern in WITHOUT_TORCH for path in REPOSITORY.glob(pattern))
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    loaded = {{"torch", "torchvision", "nvidia", "wandb", "matplotlib", "sklearn"}} & sys.modules.keys()
    assert not loaded, f"{{name}} imports {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_submitting_takes_no_more_packages_than_the_installation_page_names():
    (line,) = re.findall(r"submit/bin/python -m pip install (.*)", (REPOSITORY / "docs" / "install.md").read_text())
    code = """
import importlib, importlib.metadata, sys
importlib.import_module("launch.slurm.submit")
importlib.import_module("launch.slurm.check")
roots = {name.partition(".")[0] for name in sys.modules}
places = importlib.metadata.packages_distributions()
print(*sorted({place.lower().replace("_", "-") for root in roots for place in places.get(root, ())}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    needed: set[str] = set()
    for name in line.split():
        needed |= {each.lower().replace("_", "-") for each in requirements_of(name)}
    ours = {"senet154", "setuptools"}
    assert set(done.stdout.split()) - needed - ours == set()


def requirements_of(name: str) -> set[str]:
    """A distribution and all that it needs."""
    found = {name}
    for text in importlib.metadata.requires(name) or ():
        if "extra ==" not in text:
            inner = re.match(r"[\w.-]+", text)
            assert inner is not None
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found |= requirements_of(inner[0])
    return found


def test_a_file_is_named_by_what_it_is_about():
    for path in SOURCES:
        assert not VAGUE_NAMES & set(path.relative_to(REPOSITORY).with_suffix("").parts), path


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_every_declared_stage_has_a_module_that_runs_it(stage):
    run = importlib.import_module(f"stages.{stage}").run
    assert list(inspect.signature(run).parameters) == ["context"]


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_a_stage_reads_only_stages_declared_before_it(recipe):
    config = load_members(recipe)[0].config
    before = set()
    for stage in STAGES:
        assert set(stage.inputs(config)) <= before
        before |= set(part_names(stage))


NAMES_NETWORKS = ("pipeline.models", "pipeline.networks", "pipeline.paper", "pipeline.interop", "pipeline.bench")
"""Networks are named here alone: modules, rows, the paper's figures, files that others published, contestants."""
OF_THE_PROJECT = (
    r"(configs|runs)/senet154_|senet154\[|SENet-154 pipeline|`senet154`|senet154\S*\.(pth|safetensors)"
    r"|COMMAND = \"senet154\"|print\(f\"senet154 |project: str = \"senet154\""
)
"""The project has the name of a network: its command, its package, its recipes, and examples of files."""
FAMILIES = r"SE-?Net-?\d+|ResNets?|ResNeXts?|Inception|VGG|MobileNet|ShuffleNet"


def test_no_line_of_the_product_names_a_network_but_where_networks_are_described():
    names = re.compile(rf"(?<![a-z])({'|'.join(sorted(NETWORKS, key=len, reverse=True))})(?![a-z0-9])|{FAMILIES}")
    templates = (REPOSITORY / "pipeline" / "reporting").glob("*.html")
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in (*SOURCES, *templates)
        if not module_of(path).startswith(NAMES_NETWORKS)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if names.search(re.sub(OF_THE_PROJECT, "", line))
    ]
    assert not found, "\n".join(found)


def names_of(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}


def test_nothing_that_is_loaded_can_run_code():
    for path in SOURCES:
        text = path.read_text()
        loaders = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} & set(imported_modules(path))
        if module_of(path) == "pipeline.data.array_pickle":  # finds no class but its own; tests/data/test_cifar.py
            assert set(re.findall(r"pickle\.(\w+)", text)) == {"Unpickler"}
            loaders -= {"pickle"}
        assert not loaders, f"{path} imports {loaders}"
        # Calls, not text: an error message tells people how to save the numbers of a network that they trust.
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}: {ast.unparse(node)}"
            assert not (isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in names_of(node)), path
        assert not re.search(r"allow_pickle\s*=\s*True", text), path


def lock_lines(lock: str = "requirements.lock") -> list[str]:
    """Each package with its hashes, in one line."""
    lines = (REPOSITORY / lock).read_text().replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", ["requirements.lock", "docs/requirements.lock"])
def test_lock_pins_every_package_exactly(lock):
    assert lock_lines(lock)
    for line in lock_lines(lock):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ;.*?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_the_set_up_demands_the_lock_s_hashes():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "uv pip sync --python $(VENV)/bin/python --require-hashes requirements.lock" in makefile
    assert "pip install --quiet --disable-pip-version-check --require-hashes --requirement $<" in makefile


def test_lock_has_every_dependency_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in wanted}
    assert names <= {normal(line.partition("==")[0]) for line in lock_lines()}


@pytest.mark.parametrize(
    "name", ["Makefile", ".ci/run", "pyproject.toml", "requirements.lock", "docs/requirements.lock"]
)
def test_the_set_up_leaves_the_choice_of_registry_to_the_machine(name):
    assert not re.search(r"index-url|find-links|https?://", (REPOSITORY / name).read_text())
