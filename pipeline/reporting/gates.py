"""The gates of a network as the paper's Figures 6 and 7 show them, as SVG. Imports neither torch nor matplotlib."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ground.errors import UserError

Array = npt.NDArray[np.float32]

NUM_CHANNELS = 50
"""Evenly spaced channels of a block that a figure shows."""
_PAPERS_CLASSES = {6: ("n01443537", "n02110958", "n03954731", "n09246464"), 7: ("n01443537", "n03954731")}
"""Goldfish, pug, the carpenter's plane and cliff, by the number of the figure."""
_MOST_LAST = 3
"""Blocks of the last stage that a figure shows."""
_COLUMNS, _WIDTH, _HEIGHT, _LEFT, _TOP = 3, 250, 130, 44, 62
_STEP = (_WIDTH + 56, _HEIGHT + 62)
"""From one panel to the next, in pixels."""
_LINE = 20
"""From one line of the legend to the next."""
_STYLE = """
.gates { --gate-text: #1c2128; --gate-grid: #e3e9f0; --gate-0: #0b62c4; --gate-1: #b54708; --gate-2: #1a7f4b;
  --gate-3: #8250df; font: 12px system-ui, sans-serif; min-width: 42rem; }
@media (prefers-color-scheme: dark) { .gates { --gate-text: #dfe4ea; --gate-grid: #303843; --gate-0: #6cb2ff;
  --gate-1: #ffab6b; --gate-2: #63c58f; --gate-3: #c8a6ff; } }
@media print { .gates { --gate-text: #000; --gate-grid: #ccc; --gate-0: #0b62c4; --gate-1: #b54708; --gate-2: #1a7f4b;
  --gate-3: #8250df; } }
.gates text { fill: var(--gate-text); }
.gates .grid { stroke: var(--gate-grid); }
.gates .line { fill: none; stroke: var(--color); stroke-width: 1.4; stroke-linejoin: round; }
.gates .band { fill: var(--color); opacity: 0.2; }
.gates .again { stroke-dasharray: 5 3; }
.gates .all { --color: var(--gate-text); stroke-width: 2; stroke-dasharray: 1.5 2.5; }
"""
_COLORS = 4


@dataclasses.dataclass(frozen=True)
class Gates:
    """The result of the stage `activations`."""

    directory: Path
    figures: Mapping[str, Any]
    """Its gates.json."""

    @functools.cached_property
    def _arrays(self) -> Mapping[str, Array]:
        arrays: Mapping[str, Array] = np.load(self.directory / "gates.npz", allow_pickle=False)
        return arrays

    def curve(self, block: str, label: int | None, kind: str) -> Array:
        """Return mean or std of a block's gates by channel, for a row of the classes, or for all images if None."""
        return self._arrays[f"{block}/{kind}_of_all"] if label is None else self._arrays[f"{block}/{kind}"][label]

    def choose_classes(self, number: int, given: Sequence[str] = ()) -> list[int]:
        """Return rows of the classes: those given by folder or first word; else the paper's, or as many evenly spaced
        ones if the images have other classes. Raises UserError for an unknown one."""
        classes = self.figures["classes"]
        row_of = {one["words"].split(",")[0]: row for row, one in enumerate(classes)}
        row_of |= {one["folder"]: row for row, one in enumerate(classes)}
        if given:
            return [_find(name, row_of, "--classes", "class of these images") for name in given]
        papers = _PAPERS_CLASSES[number]
        if all(folder in row_of for folder in papers):
            return [row_of[folder] for folder in papers]
        most = min(len(papers), len(classes))
        return [place * len(classes) // most for place in range(most)]

    def choose_blocks(self, given: Sequence[str] = ()) -> list[str]:
        """Return blocks: those given by the paper's names; else the last of each stage, and of the last stage three.

        Raises UserError for an unknown one.
        """
        stages: dict[int, list[str]] = {}
        for block in self.figures["blocks"]:
            stages.setdefault(block["stage"], []).append(block["label"])
        known = {label: label for labels in stages.values() for label in labels}
        if given:
            return [_find(name, known, "--blocks", "block of this network") for name in given]
        *earlier, last = stages.values()
        return [*(labels[-1] for labels in earlier), *last[-_MOST_LAST:]]


def read_gates(directory: Path) -> Gates:
    """Return the gates in a sealed directory of the stage `activations`."""
    return Gates(directory, json.loads((directory / "gates.json").read_text()))


def gate_figure(gates: Gates, number: int, blocks: Sequence[str], classes: Sequence[int]) -> str:
    """Draw Figure 6 (the mean gate of each class, and of all images) or 7 (with one standard deviation) as SVG."""
    lines: list[int | None] = [*classes] if number == 7 else [*classes, None]
    width = _LEFT + max(min(_COLUMNS, len(blocks)) * _STEP[0], *(_entry_width(gates, label) for label in lines))
    legend, legend_height = _legend(gates, lines, width)
    above = _TOP + legend_height
    height = above - (-len(blocks) // _COLUMNS) * _STEP[1] - 8
    drawn = [legend]
    low, high = _range(gates, blocks, lines)
    for place, block in enumerate(blocks):
        left = _LEFT + place % _COLUMNS * _STEP[0]
        top = above + place // _COLUMNS * _STEP[1]
        panel = _panel(gates, number, block, lines, (low, high))
        drawn.append(f'<g transform="translate({left} {top})">{panel}</g>')
    title = f"Gates of {', '.join(blocks)} by channel"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gates" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}"><style>{_STYLE}</style>{"".join(drawn)}</svg>\n'
    )


def gate_section(gates: Gates | None) -> dict[str, Any]:
    """Return the values of the report's section; it has none if no gates were measured."""
    if gates is None:
        return {"gates": None}
    figures = {n: gate_figure(gates, n, gates.choose_blocks(), gates.choose_classes(n)) for n in (6, 7)}
    return {"gates": gates, "gate_figures": figures, "gate_rows": gate_rows(gates), "leaving_out": leaving_out(gates)}


def _legend(gates: Gates, lines: Sequence[int | None], width: int) -> tuple[str, int]:
    """Draw the legend, no wider than the figure. Returns it and the height of its lines after the first one."""
    drawn, left, below = [], _LEFT, 0
    for order, label in enumerate(lines):
        if left + _entry_width(gates, label) > width and left > _LEFT:
            left, below = _LEFT, below + _LINE
        text = f'<text x="{left + 32}" y="{20 + below}">{_escaped(_line_name(gates, label))}</text>'
        drawn.append(f'<path d="M{left} {16 + below}h26" {_look(order, label)}/>{text}')
        left += _entry_width(gates, label)
    return "".join(drawn), below


def _entry_width(gates: Gates, label: int | None) -> int:
    return 56 + 7 * len(_line_name(gates, label))


def _line_name(gates: Gates, label: int | None) -> str:
    return "all images" if label is None else gates.figures["classes"][label]["words"].split(",")[0]


def _panel(gates: Gates, number: int, block: str, lines: Sequence[int | None], limits: tuple[float, float]) -> str:
    low, high = limits
    drawn = [f'<text x="{_WIDTH / 2}" y="-10" text-anchor="middle">{block}</text>']
    for value in np.linspace(low, high, 5):
        y = _HEIGHT * (high - value) / (high - low)
        drawn.append(f'<path d="M0 {y:.1f}h{_WIDTH}" class="grid"/>')
        drawn.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    channels = len(gates.curve(block, None, "mean"))
    shown = np.arange(min(NUM_CHANNELS, channels)) * channels // min(NUM_CHANNELS, channels)
    for x in (0, channels // 2, channels):
        drawn.append(f'<text x="{_WIDTH * x / channels:.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{x}</text>')
    drawn.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 32}" text-anchor="middle">channel</text>')

    def points(values: Array) -> list[str]:
        ys = _HEIGHT * (high - np.clip(values[shown], low, high)) / (high - low)
        return [f"{_WIDTH * x / channels:.1f} {y:.1f}" for x, y in zip(shown, ys, strict=True)]

    for order, label in enumerate(lines):
        mean = gates.curve(block, label, "mean")
        if number == 7:
            deviation = gates.curve(block, label, "std")
            edge = points(mean + deviation) + points(mean - deviation)[::-1]
            drawn.append(f'<path d="M{"L".join(edge)}Z" class="band" style="--color: var(--gate-{order % _COLORS})"/>')
        drawn.append(f'<path d="M{"L".join(points(mean))}" {_look(order, label)}/>')
    return "".join(drawn)


def _range(gates: Gates, blocks: Sequence[str], lines: Sequence[int | None]) -> tuple[float, float]:
    """Return the limits of the axis: 0 and 1, or wider if gates are, as those that end with tanh or ReLU."""
    means = [gates.curve(block, label, "mean") for block in blocks for label in lines]
    return min(0.0, *(float(mean.min()) for mean in means)), max(1.0, *(float(mean.max()) for mean in means))


def _look(order: int, label: int | None) -> str:
    if label is None:
        return 'class="line all"'
    again = " again" if order >= _COLORS else ""
    return f'class="line{again}" style="--color: var(--gate-{order % _COLORS})"'


def _find(name: str, known: Mapping[str, Any], option: str, kind: str) -> Any:
    if name not in known:
        some = ", ".join(list(known)[:10])
        raise UserError(f"{option}: there is no {kind} '{name}' (there are: {some}{' and more' * (len(known) > 10)})")
    return known[name]


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def gate_rows(gates: Gates) -> list[tuple[str, ...]]:
    """Return a row for each block: name, channels, how far classes and images of a class lie apart, and how many gates
    are nearly 0 and 1, in percent; the first row has the headings."""
    near = gates.figures["near"]
    headings = ("block", "channels", "between classes", "within a class", f"up to {near:g}, %", f"from {1 - near:g}, %")
    return [
        headings,
        *(
            (
                block["label"],
                f"{block['channels']:,}",
                f"{block['between_classes']:.4f}",
                f"{block['within_classes']:.4f}",
                f"{block['nearly_0_percent']:.2f}",
                f"{block['nearly_1_percent']:.2f}",
            )
            for block in gates.figures["blocks"]
        ),
    ]


def leaving_out(gates: Gates) -> str:
    """Return the cost of doing without the gates of the last stage, in a sentence."""
    left, near = gates.figures["left_out"], gates.figures["left_out"]["errors"]
    share = 100 * left["parameters"] / left["parameters_of_all_blocks"]
    errors = ", ".join(
        f"{name.partition('_')[0].replace('top', 'top-')} error {near['as trained'][name]:.2f} % -> {value:.2f} %"
        for name, value in near["with fixed gates"].items()
    )
    return (
        f"Without {', '.join(left['blocks'])}, {left['parameters']:,} parameters less ({share:.0f} % of all blocks'): "
        f"{errors}, if each of their gates is a constant, its mean over all images."
    )
