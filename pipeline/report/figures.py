"""Figures as SVG, drawn by matplotlib: for the page, in its colours, and as files on white.

Text stays text (the page's own font, selectable), and the ink, grid and paper colours are stand-ins
that become CSS variables, so that one drawing reads well in light and dark. Labels are the
datasets' canonical names: few machines have a Chinese font for matplotlib.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from matplotlib import rc_context
from matplotlib.figure import Figure

INK, MUTED, GRID = "#010203", "#040506", "#070809"
ACCENT = "#4a8fd9"
EXPERT_SERIES = ("#a678d0", "#d2747f", "#93a24f", "#5fa8b5")
SERIES = ("#4a8fd9", "#e08a3c", "#3fa37a", "#a678d0", "#c9564f", "#8a8f98")
WIDTH = 4.4
"""Inches; at the width of a phone the 9.5 pt text still measures about 10 px."""

_THEME = {
    INK: ("--ink", "#1c2126"),
    MUTED: ("--muted", "#5b6570"),
    GRID: ("--line", "#d9dee3"),
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "egmf",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Drawing:
    """One figure: a name unique in the page, a caption, its themed SVG, and its size in points."""

    name: str
    title: str
    caption: str
    svg: str
    size: tuple[float, float]

    @property
    def file(self) -> str:
        """Return the figure as an SVG document of its own: plain colours on white paper."""
        svg = re.sub(r"var\([-a-z]+, (#[0-9a-f]+)\)", r"\1", self.svg)
        width, height = self.size
        head = (
            f'<svg width="{width:.0f}pt" height="{height:.0f}pt" '
            'style="background: #ffffff; font-family: sans-serif"'
        )
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg.replace("<svg", head, 1)}'


@contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches, under the page's style."""
    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, name: str, title: str, caption: str) -> Drawing:
    """Turn a figure into SVG for the page; call it inside the `canvas` block.

    Args:
        figure: What was drawn.
        name: Letters, digits and hyphens, unique in the page: it begins every id of the drawing.
        title: Heading and text alternative.
        caption: One or two sentences below the figure.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # text stays text
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    width, height = figure.get_size_inches()
    size = (72.0 * float(width), 72.0 * float(height))
    return Drawing(name, title, caption, _themed(buffer.getvalue(), name, title), size)


def _themed(svg: str, name: str, title: str) -> str:
    """Keep the `<svg>` element alone, with ids of its own, page colours and a text alternative."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    for stand_in, (variable, plain) in _THEME.items():
        rest = rest.replace(stand_in, f"var({variable}, {plain})")
    return f'{head} role="img" aria-label={quoteattr(title)}>{rest}'
