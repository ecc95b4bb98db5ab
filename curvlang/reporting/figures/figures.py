"""The figures of a report as SVG text: the chain, LDS against λ, LDS against error.

A figure that cannot be drawn is a sentence that says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from curvlang.evaluation.result import Result, Step
from curvlang.reporting.figures.scatter import lds_by_error
from curvlang.reporting.figures.style import (
    INK,
    NO_LDS,
    WIDTH,
    Drawing,
    ceiling_band,
    ends,
    finite,
    named_figure,
    settings,
    short_name,
    style,
    svg_text,
)
from curvlang.reporting.notation import MINUS, MISSING, known, quantity, setting, share
from curvlang.reporting.tables.view import at_damping
from curvlang.reporting.tables.words import has_lds

_MANY = 6
"""Bars beyond which their numbers are written short."""
_ACROSS = 40
"""Characters of step names that stand side by side along the x axis; longer ones are aslant."""


def drawings(result: Result) -> tuple[Drawing, ...]:
    """All figures, in the order of the report."""
    return tuple(draw(result) for draw in FIGURES.values())


def figure_of(result: Result, name: str) -> Drawing:
    """One figure by its name in `FIGURES`.

    Raises:
        SpecError: E0722 for another name, and where the result has nothing to draw.
    """
    return named_figure(FIGURES, result, name, _repair(result))


def _repair(result: Result) -> str:
    """What gives a result the figures that it lacks."""
    if not has_lds(result):
        return "evaluate with a protocol, `cv.evaluate(…, protocol=cv.LDS())`, or take `chain`"
    return "evaluate at several λ above zero, and take `chain` for errors alone"


def error_along_chain(result: Result) -> Drawing:
    """Forward error of every step, and the signed share of the path's total that it adds."""
    name, title = "chain", "Error along the chain"
    caption = (
        f"Above: forward error ‖C − H‖/‖H‖ against {result.reference}. Below: the share of the "
        "path's total error that each step adds; below zero, the step repairs."
    )
    if not any(known(step.forward) for step in result.steps):
        return Drawing(name, title, caption, None, "No step has a forward error to draw.")
    shares = any(known(step.forward_share) for step in result.steps)
    with settings(name):
        figure = Figure((WIDTH, 4.0 if shares else 2.4), layout="constrained")
        axes = figure.subplots(2 if shares else 1, 1, sharex=True, squeeze=False)[:, 0]
        _error_bars(axes[0], result)
        if shares:
            _share_bars(axes[1], result)
        _name_steps(axes[-1], result)
        return Drawing(name, title, caption, svg_text(figure, name))


def lds_by_damping(result: Result) -> Drawing:
    """LDS against λ for every step, intervals as bands, with the noise ceiling."""
    name, title = "damping", "LDS against λ"
    caption = "Bands are bootstrap intervals."
    grid = sorted(damping for damping in result.sweep if damping > 0)
    if not has_lds(result):
        return Drawing(name, title, caption, None, NO_LDS)
    if len(grid) < 2:
        reason = "A curve over λ needs an inverse that is swept over at least two λ above zero."
        return Drawing(name, title, caption, None, reason)
    if result.ceiling is not None and known(result.ceiling.estimate):
        caption += " The grey band is the noise ceiling of the retrained outcomes."
    if len(grid) < len(result.sweep):
        caption += " λ = 0 has no place on a logarithmic axis; it is in the table."
    with settings(name):
        figure = Figure((WIDTH, 3.9), layout="constrained")
        axes = figure.subplots()
        ceiling_band(axes, result)
        for k, step in enumerate(result.steps):
            _curve(axes, step, grid, style(k, len(result.steps)))
        _damping_axis(axes, grid)
        axes.set_ylabel("LDS")
        _legend(figure, result)
        return Drawing(name, title, caption, svg_text(figure, name))


FIGURES: Mapping[str, Callable[[Result], Drawing]] = {
    "chain": error_along_chain,
    "sweep": lds_by_damping,
    "forward": partial(lds_by_error, kind="forward"),
    "inverse": partial(lds_by_error, kind="inverse"),
}
"""Every figure of a result, in the order of the report: errors along the chain, LDS against λ, LDS against the
forward and the inverse error."""


def _error_bars(axes: Axes, result: Result) -> None:
    heights = [finite(step.forward) or 0.0 for step in result.steps]
    top = max(heights) or 1.0
    for k, (step, height) in enumerate(zip(result.steps, heights, strict=True)):
        axes.bar(k, height, width=0.62, color=style(k, len(heights))["color"])
        axes.text(
            k,
            height + 0.02 * top,
            quantity(step.forward),
            ha="center",
            va="bottom",
            **_small(result),
        )
    axes.set_ylim(0, 1.16 * top)
    axes.set_ylabel("forward error")


def _share_bars(axes: Axes, result: Result) -> None:
    """Dark bars add error, hatched ones repair; many bars carry shorter numbers."""
    values = [100 * (finite(step.forward_share) or 0.0) for step in result.steps]
    reach = max(abs(value) for value in values) or 1.0
    short = len(values) > _MANY
    for k, (step, value) in enumerate(zip(result.steps, values, strict=True)):
        adds = value >= 0
        look: dict[str, Any] = {"color": "#4a4a4a"} if adds else {"color": "white", "hatch": "////"}
        axes.bar(k, value, width=0.62, edgecolor="#4a4a4a", **look)
        if k or known(step.forward_share):
            text = share(step.forward_share)
            text = f"{value:+.0f}".replace("-", MINUS) if short and text != MISSING else text
            side = "bottom" if adds else "top"
            axes.text(
                k,
                value + (0.03 if adds else -0.03) * reach,
                text,
                ha="center",
                va=side,
                **_small(result),
            )
    axes.axhline(0, color=INK, linewidth=0.8)
    room = 0.28 * reach
    low = min(0.0, *values)
    axes.set_ylim(low - room if low < 0 else 0, max(0.0, *values) + room)
    axes.set_ylabel("share of total, %")


def _small(result: Result) -> dict[str, Any]:
    return {"fontsize": 8} if len(result.steps) > _MANY else {}


def _name_steps(axes: Axes, result: Result) -> None:
    names = [short_name(step.label) for step in result.steps]
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    slot = _ACROSS / len(names)
    if any(len(a) + len(b) + 2 >= 2 * slot for a, b in pairwise(names)):
        for label in axes.get_xticklabels():
            label.set(rotation=32, ha="right", rotation_mode="anchor")


def _curve(axes: Axes, step: Step, grid: Sequence[float], look: dict[str, Any]) -> None:
    found = [at_damping(step, damping) for damping in grid]
    items = [None if point is None else point.lds for point in found]
    values = [math.nan if item is None else item.estimate for item in items]
    low, high = ends(items)
    axes.fill_between(grid, low, high, color=look["color"], alpha=0.13, linewidth=0)
    axes.plot(grid, values, label=short_name(step.label), markersize=5.5, linewidth=1.6, **look)


def _legend(figure: Figure, result: Result) -> None:
    """Below the axes, in as many columns as the longest name leaves room for."""
    longest = max(len(short_name(step.label)) for step in result.steps)
    columns = 4 if longest <= 5 else 3 if longest <= 10 else 2
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=2.8)


def _damping_axis(axes: Axes, grid: Sequence[float]) -> None:
    """Name the λ of the sweep themselves; every second where they would run together."""
    axes.set_xscale("log")
    kept = grid[:: 1 + (len(grid) - 1) // 9]
    axes.set_xticks(kept, [setting(damping) for damping in kept])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("λ, added to the matrix")
