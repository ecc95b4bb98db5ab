"""Small panels side by side, methods alike in all of them, and one legend below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from curvlang.reporting.figures.scatter import round_ticks
from curvlang.reporting.figures.style import Drawing, drawn, settings, short_name, style
from curvlang.reporting.notation import setting

ACROSS = 3
"""Panels side by side."""
WIDE, HIGH = 3.3, 2.75
"""Inches of one."""
ALONE = (6.6, 4.2)
"""Inches of a single one that shows many methods."""
Item = TypeVar("Item")


def panels(
    drawing: tuple[str, str, str],
    items: Sequence[Item],
    titles: Sequence[str],
    draw: Callable[[Axes, Item], None],
    handles: Sequence[Any],
) -> Drawing:
    """One panel for each item and one legend below all of them.

    Args:
        drawing: Name, title and caption of the figure.
        items: What `draw` is given, one for each panel.
        titles: Above the panels.
        draw: Draws an item.
        handles: Of the legend.
    """
    name, title, caption = drawing
    with settings(name):
        across = min(ACROSS, len(items))
        down = -(-len(items) // across)
        size = ALONE if len(items) == 1 and len(handles) > 8 else (WIDE, HIGH)
        width = max(size[0] * across, 5.0)
        height = size[1] * down + _legend_height(handles, width)
        figure = Figure((width, height), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for k, axes in enumerate(grid.flat):
            if k >= len(items):
                axes.set_axis_off()
                continue
            draw(axes, items[k])
            axes.set_title(titles[k], fontsize=10, loc="left")
        _legend(figure, handles, width)
        return drawn(name, title, caption, figure)


def method_handles(methods: Sequence[str], *, lines: bool = True) -> list[Any]:
    """A legend entry for each method, in its own colour, marker and line."""
    found = []
    for k, method in enumerate(methods):
        look = style(k, len(methods))
        if not lines:
            look = look | {"linestyle": "none"}
        found.append(Line2D([], [], label=short_name(method), markersize=6, **look))
    return found


def log_ticks(axes: Axes, along: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis with few round numbers."""
    axis = axes.xaxis if along == "x" else axes.yaxis
    axes.set(**{f"{along}scale": "log"})
    if along == "x":
        axes.margins(x=0.12)
    axes.autoscale_view()
    low, high = axes.get_xlim() if along == "x" else axes.get_ylim()
    # Where all values are nearly one, no round number lies between them: the ends are named.
    ticks = round_ticks(low, high, most=4) or [low * (high / low) ** x for x in (0.1, 0.9)]
    axis.set_ticks(ticks, [setting(x) for x in ticks])
    axis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis=along, which="minor", length=0)


def _columns(shown: Sequence[Any], width: float) -> int:
    longest = max((len(str(h.get_label())) for h in shown), default=1)
    return max(1, min(len(shown), int(width / (0.55 + 0.095 * longest))))


def _legend_height(shown: Sequence[Any], width: float) -> float:
    return 0.15 + 0.21 * math.ceil(len(shown) / _columns(shown, width)) if shown else 0.0


def _legend(figure: Figure, shown: Sequence[Any], width: float) -> None:
    if shown:
        figure.legend(
            handles=list(shown),
            loc="outside lower center",
            ncols=_columns(shown, width),
            frameon=False,
            handlelength=2.6,
            fontsize=9.5,
        )
