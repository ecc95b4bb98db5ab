"""How figures look, and how one becomes SVG text.

Steps keep one colour, marker and line style through all figures; the colours grow lighter along
the chain (viridis without its pale end), so that they are told apart in grey and by readers who
see colours differently. Nothing global is touched: no pyplot, and matplotlib's settings are put
back.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#222222"
SOFT = "#8a8a8a"
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
    "text.parse_math": False,
}
_MARKERS = "osD^vPX<>ph"
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_PALEST = 0.82
_LONGEST = 24


def style(position: int, count: int) -> dict[str, Any]:
    """Colour, marker and line style of a step: lighter along the chain, and each different."""
    shade = _PALEST * position / max(count - 1, 1)
    return {
        "color": matplotlib.colormaps["viridis"](shade),
        "marker": _MARKERS[position % len(_MARKERS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "linestyle": _LINES[position % len(_LINES)],
    }


def short_name(text: str) -> str:
    """A step's name in a figure: at most 24 characters, and no leading underscore.

    A legend leaves out what begins with an underscore, so a space is put before it.

    >>> short_name("_mine"), short_name("kronecker_factor_with_everything")
    (' _mine', 'kronecker_factor_with_e…')
    """
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return " " + shown if shown.startswith("_") else shown


@contextmanager
def settings(salt: str) -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's own settings, and ours on top; then back.

    Args:
        salt: Makes the ids of clip paths and markers the same in every run.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        current: Any = matplotlib.rcParams
        current.update(_SETTINGS | {"svg.hashsalt": salt})
        yield


def svg_text(figure: Figure, name: str) -> str:
    """The figure as an `svg` element that can stand in a page beside others.

    No date and no metadata, so that a result gives one text; every id carries the figure's name.
    """
    FigureCanvasAgg(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return text.replace("url(#", f"url(#{name}-")
