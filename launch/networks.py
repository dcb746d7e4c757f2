"""List the networks, with what they cost and what the paper says of them."""

from __future__ import annotations

from collections.abc import Iterator

from launch.console import show, table
from launch.packaged import packaged_folder
from pipeline.config.reader import load_config
from pipeline.ground.errors import EXIT_DONE
from pipeline.networks.layers import Cost, layer_table
from pipeline.networks.registry import NETWORKS
from pipeline.paper.statements import find_errors, row_of

_TITLE = """# Networks

Made from the registry and its layer tables by `python -m tests.config.pinned`;
`python -m launch networks` answers the same on a terminal.

Parameters are the learnable ones with a classifier of 1,000 classes; GMAC are the multiply-adds of convolutions and
classifier, in 1e9, for one image of the size in the fourth column. The paper's "GFLOPs" are these and something that it
does not state; the next column says by how much ours differ. Its errors are top-1 and top-5 of one centre crop in
percent, as its authors measured them (Tables 2, 3 and 8). Networks whose names end in `nano` are small ones for a CPU.
"""
_SOURCES = """
## Sources

Where the paper is silent or contradicts itself, the module of the family (`pipeline/models`) says what is known and
what was chosen.

| network | family | source |
| --- | --- | --- |
"""
COLUMNS = ("network", "parameters", "GMAC", "px", "paper's GFLOPs", "ours", "paper's parameters", "errors", "recipe")


def network_rows() -> Iterator[tuple[str, ...]]:
    """Yield the cells of each network, in the order of `COLUMNS`; empty where there is nothing to say."""
    recipes = _recipes()
    for name, network in NETWORKS.items():
        cost, figures = Cost.of(layer_table(name)), row_of(name)
        gmacs, paper = cost.macs / 1e9, ["", "", "", ""]
        errors = find_errors(name, 224, 256, 224)
        if figures is not None and figures.gflops is not None:
            deviation = gmacs / float(figures.gflops) - 1
            millions = f"{figures.parameters} M" if figures.parameters else ""
            paper = [
                figures.gflops,
                f"{100 * deviation:+.2f} %",
                millions,
                " / ".join(filter(None, figures.errors or ())),
            ]
        elif errors is not None:
            paper[-1] = f"{errors.top1_percent} / {errors.top5_percent}"
        yield (name, f"{cost.parameters:,}", f"{gmacs:.4f}", f"{network.image_size_px}", *paper, recipes.get(name, ""))


def print_networks(*, as_page: bool) -> int:
    """Print the networks, or docs/networks.md. Returns the exit code of the contract."""
    if as_page:
        print(networks_page(), end="")
        return EXIT_DONE
    networks = table(*COLUMNS, numbers=range(1, len(COLUMNS) - 1))
    for row in network_rows():
        networks.add_row(*row)
    show(networks)
    return EXIT_DONE


def networks_page() -> str:
    """Return the networks as a page of Markdown."""
    lines = [_TITLE, f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 2)} --- |"]
    for name, *cells, recipe in network_rows():
        lines.append(f"| {' | '.join((f'`{name}`', *cells, f'`{recipe}`' if recipe else ''))} |")
    sources = [
        f"| `{name}` | `{network.family}` | {network.source} |"
        for name, network in NETWORKS.items()
        if not name.startswith("se_")
    ]
    return "\n".join([*lines, _SOURCES.rstrip("\n"), *sources, ""])


def _recipes() -> dict[str, str]:
    """Return a recipe of each network, by its name: the first that is named after it, or else the first."""
    folder = packaged_folder("configs")
    models = {path: load_config(path, ["sweep=null"]).model for path in sorted(folder.rglob("*.yaml"))}
    found: dict[str, str] = {}
    for path, model in sorted(models.items(), key=lambda item: item[1].name not in item[0].stem):
        if model.se == "default":
            found.setdefault(model.name, str(path.relative_to(folder.parent)))
    return found
