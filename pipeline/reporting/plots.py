"""The report's plots: as SVG in the colours of the page that holds them, and as PNG files."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_DPI = 220
_INCHES = (4.6, 2.6)
"""Width and height. As wide as a phone's screen, so that text of 9 points is not shrunk there."""


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of a plot, each of them once."""

    background: str
    text: str
    muted: str
    line: str
    accent: str
    shade: str


PALETTE = Palette("#ffffff", "#1c2128", "#57606a", "#0b62c4", "#b54708", "#e3e9f0")
_ON_PAGE = Palette("--page", "--text", "--muted", "--accent", "--differs", "--shade")
"""The variables of page.css, which know dark mode and print."""
_OF_MATPLOTLIB = r'(?<=<g) id="[^"]+"| font-family: [^;]+;| transform="rotate\(-0 [^"]+"|(?<=\n) +'
"""Names of groups, which would be those of every plot on the page; its fonts; and what has no effect."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot, for the page and as a file."""

    name: str
    """Name of the file, without `.png`."""
    description: str
    """Caption, and the words for those who cannot see it."""
    draw: Callable[[Axes], None]

    def png(self) -> bytes:
        """Render the plot as a PNG file; the same data gives the same bytes."""
        content = io.BytesIO()
        FigureCanvasAgg(self._figure()).print_png(content, metadata={"Software": None})
        return content.getvalue()

    def svg(self) -> str:
        """Render the plot as an SVG element for the page, in its fonts and colours, labelled by the plot's caption."""
        content, no_metadata = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            FigureCanvasSVG(self._figure()).print_svg(content, metadata=no_metadata)
        size, drawing = re.findall(r'viewBox="([^"]+)".*?</style>\s*</defs>\s*(.+)', content.getvalue(), re.DOTALL)[0]
        for field in dataclasses.fields(Palette):
            drawing = drawing.replace(getattr(PALETTE, field.name), f"var({getattr(_ON_PAGE, field.name)})")
        drawing = re.sub(_OF_MATPLOTLIB, "", drawing)
        return f'<svg viewBox="{size}" role="img" aria-labelledby="plot-{self.name}">{drawing}'

    def _figure(self) -> Figure:
        figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
        figure.set_facecolor(PALETTE.background)
        axes = figure.add_subplot()
        _style(axes)
        self.draw(axes)
        return figure


def legend_above(axes: Axes) -> None:
    """Add the legend in one row above the axes, where it hides no point."""
    axes.legend(
        frameon=False,
        fontsize=8,
        labelcolor=PALETTE.text,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        borderpad=0,
        handlelength=1.4,
        columnspacing=1.2,
    )


def _style(axes: Axes) -> None:
    axes.set_facecolor(PALETTE.background)
    axes.grid(True, color=PALETTE.shade, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=PALETTE.muted, labelcolor=PALETTE.text, labelsize=9, length=0)
    for name in ("top", "right", "left"):
        axes.spines[name].set_visible(False)
    axes.spines["bottom"].set_color(PALETTE.muted)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(PALETTE.text)
        label.set_fontsize(9)
