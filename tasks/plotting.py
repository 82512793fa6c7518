"""Plots of the pages for people: SVG in the colours and fonts of its page, so that it is light or dark with it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.7, 2.5  # inches: 338 points, so that the labels are still read on a phone
FONT_POINTS = 9
MOST_SERIES = 6
# Placeholders that the page's own variables take the place of.
INK, SOFT, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{number:02x}" for number in range(MOST_SERIES))
VARIABLES = {INK: "ink", SOFT: "soft", GRID: "line"} | {color: f"s{number}" for number, color in enumerate(SERIES)}
# Matplotlib would set names like a$b$c as formulas, draw letters as shapes, and name shapes by chance.
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "tidemill",
    "font.size": FONT_POINTS,
}


@dataclass(frozen=True)
class Plot:
    """A drawn plot."""

    title: str
    svg: str
    """An SVG element."""


def plot(title: str, draw: Callable[[Axes], None], height: float = HEIGHT) -> Plot:
    """Draw with the page's colours, which `draw` takes from here; `height` in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    content = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        _plain(axes)
        draw(axes)
        figure.savefig(content, format="svg", transparent=True)
    return Plot(title, _inline(content.getvalue(), title))


def _plain(axes: Axes) -> None:
    """No frame, quiet ticks, grid lines behind what is measured."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(colors=SOFT, length=0, labelcolor=SOFT)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _inline(svg: str, title: str) -> str:
    """The SVG element alone, without Matplotlib's header and names, in the page's colours and at its width."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{title}" \1>', svg, count=1)
    return re.sub("|".join(VARIABLES), lambda found: f"var(--{VARIABLES[found[0]]})", svg)


def legend(axes: Axes) -> None:
    """Above the plot, where it covers nothing."""
    columns = len(axes.get_legend_handles_labels()[1])
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=min(columns, 3),
        frameon=False,
        labelcolor=INK,
        handlelength=1.0,
        columnspacing=1.2,
    )
