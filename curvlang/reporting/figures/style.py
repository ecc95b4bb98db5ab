"""How figures look, and how one becomes SVG text.

Steps keep one colour, marker and line style through all figures; the colours grow lighter along
the chain (viridis without its pale end), so that they are told apart in grey and by readers who
see colours differently. Nothing global is touched: no pyplot, and matplotlib's settings are put
back.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.result import Result
from curvlang.evaluation.statistics.interval import Interval
from curvlang.reporting.figures.svg import small
from curvlang.reporting.notation import correlation, known
from curvlang.storage.atomic import Destination, write

Shown = TypeVar("Shown")
"""A result that figures are drawn of."""
WIDTH = 5.0
"""Inches: a page sets two figures side by side, and their text is still legible on a phone."""
NO_LDS = "No models were retrained for this report, so there is no LDS to draw."
INK = "#222222"
SOFT = "#8a8a8a"
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
}
_MARKERS = "osD^vPX<>ph"
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_PALEST = 0.82
_LONGEST = 24


@dataclass(frozen=True, slots=True, repr=False)
class Drawing(Display):
    """A figure: its SVG (and PDF), or the sentence that says why there is none."""

    name: str
    title: str
    caption: str
    svg: str | None
    reason: str = ""
    pdf: Callable[[], bytes] | None = None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure as SVG.

        Args:
            path: The file, `sweep.svg`; an earlier one of that name is replaced.

        Raises:
            SpecError: E0722 for another ending, E0905 where the system does not let it be written.
            MachineError: E0802 where the disk is full.
        """
        place = Path(path)
        if place.suffix != ".svg" or self.svg is None:
            what = f"`{place.name}` does not end in `.svg`" if self.svg else self.reason
            raise refusal(
                Code.E0722, f"the figure is not written: {what}", "give a path `NAME.svg`"
            )
        content = self.svg.encode()
        with Destination(
            place, "figure", "nothing was left behind, and an earlier figure is unchanged"
        ).refusals(len(content)):
            write(place, content)
        return place

    def _summary(self) -> str:
        return self.title if self.svg else f"{self.title}: {self.reason}"

    def _repr_html_(self) -> str:
        # Ink is dark, also in a dark notebook: the figure stands on paper of its own.
        shown = f'<div style="background: white; width: max-content">{self.svg}</div>'
        return f"{shown if self.svg else ''}<p>{escape(self.reason or self.caption)}</p>"


def named_figure(
    figures: Mapping[str, Callable[[Shown], Drawing]], result: Shown, name: str, repair: str
) -> Drawing:
    """One figure of a result by its name.

    Args:
        figures: What draws each.
        result: What is drawn.
        name: Which.
        repair: What gives a result the figures that it lacks.

    Raises:
        SpecError: E0722 for another name, and where the result has nothing to draw.
    """
    if name not in figures:
        every = f"the figures are {', '.join(f'`{x}`' for x in figures)}"
        raise refusal(Code.E0722, f"a result has no figure `{name}`", every)
    drawing = figures[name](result)
    if drawing.svg is None:
        what = f"this result has no figure `{name}`: {drawing.reason}"
        raise refusal(Code.E0722, what, repair)
    return drawing


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
    """The figure as a small `svg` element that can stand in a page beside others; no date, so that a result gives one text."""
    FigureCanvasAgg(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return small(file.getvalue(), name)


def pdf_bytes(figure: Figure, name: str) -> bytes:
    """The figure as a PDF page of its own size, its text as text; no date, so that it is repeatable."""
    file = io.BytesIO()
    with settings(name):
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return file.getvalue()


def drawn(name: str, title: str, caption: str, figure: Figure) -> Drawing:
    """A finished figure as what reports hold of it; its PDF is made where it is asked for."""
    pdf = partial(pdf_bytes, figure, name)
    return Drawing(name, title, caption, svg_text(figure, name), pdf=pdf)


def ceiling_band(axes: Axes, result: Result) -> None:
    """The noise ceiling across the axes, its interval as a band; nothing where there is none."""
    ceiling = result.ceiling
    if ceiling is None or not known(ceiling.estimate):
        return
    low, high = ends([ceiling])
    axes.axhspan(float(low[0]), float(high[0]), color="#d0d0d0", alpha=0.6, linewidth=0)
    axes.axhline(ceiling.estimate, color=SOFT, linewidth=1.0, linestyle=(0, (6, 3)))
    axes.annotate(
        f"noise ceiling {correlation(ceiling.estimate)}",
        (0.995, float(low[0])),
        xycoords=("axes fraction", "data"),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#555555",
        fontsize=9.5,
    )


def ends(intervals: Sequence[Interval | None]) -> tuple[Any, Any]:
    """Lower and upper ends as arrays; the estimate itself where the interval has no ends."""
    items = [Interval(math.nan, math.nan, math.nan) if x is None else x for x in intervals]
    middle = np.array([item.estimate for item in items])
    low, high = np.array([item.low for item in items]), np.array([item.high for item in items])
    ended = np.isfinite(low) & np.isfinite(high)
    return np.where(ended, low, middle), np.where(ended, high, middle)


def finite(value: float | None) -> float | None:
    """The value where it can be drawn: None for a missing number, NaN and ∞."""
    return value if value is not None and math.isfinite(value) else None
