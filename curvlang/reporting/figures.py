"""The figures of a report as SVG text: the chain, LDS against λ, LDS against error.

A figure that cannot be drawn is a sentence that says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from curvlang.evaluation.result import Interval, Point, Result, Step
from curvlang.reporting.labels import Target, place_labels
from curvlang.reporting.notation import (
    MINUS,
    MISSING,
    correlation,
    known,
    quantity,
    setting,
    share,
)
from curvlang.reporting.style import INK, SOFT, settings, short_name, style, svg_text
from curvlang.reporting.view import at_damping
from curvlang.reporting.words import at_shared, has_lds, shared_damping

_WIDTH = 5.6
_MANY = 7
"""Bars beyond which their numbers are written short."""
_ROUND = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 2, 3, 4, 6, 8),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)
"""Mantissas of ticks, coarse to fine."""
_SLANT_FROM = 46
"""Characters of step names along the x axis from which they are written aslant."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of the report: its SVG, or the sentence that says why there is none."""

    name: str
    title: str
    caption: str
    svg: str | None
    reason: str = ""


def drawings(result: Result) -> tuple[Drawing, ...]:
    """All figures, in the order of the report."""
    return (
        error_along_chain(result),
        lds_by_damping(result),
        lds_by_error(result, "forward"),
        lds_by_error(result, "inverse"),
    )


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
        figure = Figure((_WIDTH, 4.0 if shares else 2.4), layout="constrained")
        axes = figure.subplots(2 if shares else 1, 1, sharex=True, squeeze=False)[:, 0]
        _error_bars(axes[0], result)
        if shares:
            _share_bars(axes[1], result)
        _name_steps(axes[-1], result)
        return Drawing(name, title, caption, svg_text(figure, name))


def lds_by_damping(result: Result) -> Drawing:
    """LDS against λ for every step, intervals as bands, with the noise ceiling."""
    name, title = "damping", "LDS against λ"
    caption = "Bands are bootstrap intervals; the grey band is the noise ceiling."
    grid = [damping for damping in result.sweep if damping > 0]
    if not has_lds(result):
        return Drawing(name, title, caption, None, _NO_LDS)
    if len(grid) < 2:
        reason = "A curve over λ needs an inverse that is swept over at least two λ above zero."
        return Drawing(name, title, caption, None, reason)
    if len(grid) < len(result.sweep):
        caption += " λ = 0 has no place on a logarithmic axis; it is in the table."
    with settings(name):
        figure = Figure((_WIDTH, 3.9), layout="constrained")
        axes = figure.subplots()
        _ceiling(axes, result)
        for k, step in enumerate(result.steps):
            _curve(axes, step, grid, style(k, len(result.steps)))
        _damping_axis(axes, grid)
        axes.set_ylabel("LDS")
        _legend(figure, result)
        return Drawing(name, title, caption, svg_text(figure, name))


def lds_by_error(result: Result, kind: Literal["forward", "inverse"]) -> Drawing:
    """LDS at the shared λ against an error on a logarithmic axis, a labelled point per step.

    A step without error (the reference, forward) has no place on the axis: a horizontal line.
    """
    name, title = f"against-{kind}", f"LDS against {kind} error"
    where = shared_damping(result)
    caption = f"One point per step{', ' + where if where else ''}; bars are bootstrap intervals."
    if not has_lds(result):
        return Drawing(name, title, caption, None, _NO_LDS)
    rows = list(_error_and_lds(result, kind))
    if len([error for _, error, _ in rows if error > 0]) < 2:
        reason = f"Fewer than two steps have an LDS and a known {kind} error above zero."
        return Drawing(name, title, caption, None, reason)
    if any(error == 0 for _, error, _ in rows):
        caption += (
            " A horizontal line is a step without error, which a logarithmic axis cannot show."
        )
    with settings(name):
        figure = Figure((_WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        _ceiling(axes, result)
        _points(axes, rows, result)
        _error_axis(axes, rows)
        axes.set_xlabel(f"{kind} error against {short_name(result.reference)}")
        axes.set_ylabel(f"LDS at {where}" if where else "LDS")
        _label_points(figure, axes, rows, result)
        return Drawing(name, title, caption, svg_text(figure, name))


_NO_LDS = "No models were retrained for this report, so there is no LDS to draw."


def _error_bars(axes: Axes, result: Result) -> None:
    heights = [_finite(step.forward) or 0.0 for step in result.steps]
    top = max(heights) or 1.0
    for k, (step, height) in enumerate(zip(result.steps, heights, strict=True)):
        axes.bar(k, height, width=0.62, color=style(k, len(heights))["color"])
        axes.text(k, height + 0.02 * top, quantity(step.forward), ha="center", va="bottom")
    axes.set_ylim(0, 1.16 * top)
    axes.set_ylabel("forward error")


def _share_bars(axes: Axes, result: Result) -> None:
    """Dark bars add error, hatched ones repair; many bars carry shorter numbers."""
    values = [100 * (_finite(step.forward_share) or 0.0) for step in result.steps]
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
            axes.text(k, value + (0.03 if adds else -0.03) * reach, text, ha="center", va=side)
    axes.axhline(0, color=INK, linewidth=0.8)
    room = 0.28 * reach
    low = min(0.0, *values)
    axes.set_ylim(low - room if low < 0 else 0, max(0.0, *values) + room)
    axes.set_ylabel("share of total, %")


def _name_steps(axes: Axes, result: Result) -> None:
    names = [short_name(step.label) for step in result.steps]
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    if sum(len(step.label) for step in result.steps) >= _SLANT_FROM:
        for label in axes.get_xticklabels():
            label.set(rotation=32, ha="right", rotation_mode="anchor")


def _curve(axes: Axes, step: Step, grid: Sequence[float], look: dict[str, Any]) -> None:
    found = [at_damping(step, damping) for damping in grid]
    items = [None if point is None else point.lds for point in found]
    values = [math.nan if item is None else item.estimate for item in items]
    low, high = _ends(items)
    axes.fill_between(grid, low, high, color=look["color"], alpha=0.13, linewidth=0)
    axes.plot(grid, values, label=short_name(step.label), markersize=5.5, linewidth=1.6, **look)


def _legend(figure: Figure, result: Result) -> None:
    """Below the axes, in as many columns as the longest name leaves room for."""
    longest = max(len(short_name(step.label)) for step in result.steps)
    columns = 4 if longest <= 7 else 3 if longest <= 14 else 2
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=3.4)


def _damping_axis(axes: Axes, grid: Sequence[float]) -> None:
    """Name the λ of the sweep themselves; every second where they would run together."""
    axes.set_xscale("log")
    kept = grid[:: 1 + (len(grid) - 1) // 9]
    axes.set_xticks(kept, [setting(damping) for damping in kept])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("λ, added to the matrix")


def _ceiling(axes: Axes, result: Result) -> None:
    ceiling = result.ceiling
    if ceiling is None or not known(ceiling.estimate):
        return
    low, high = _ends([ceiling])
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
        fontsize=8.5,
    )


_Row = tuple[int, float, Interval]


def _error_and_lds(result: Result, kind: Literal["forward", "inverse"]) -> Iterator[_Row]:
    """Position of the step, its error and its LDS, where both are finite."""
    for k, step in enumerate(result.steps):
        point = at_shared(step) or Point(None)
        error = _finite(step.forward if kind == "forward" else point.inverse)
        if error is not None and point.lds is not None and known(point.lds.estimate):
            yield k, error, point.lds


def _points(axes: Axes, rows: Sequence[_Row], result: Result) -> None:
    axes.set_xscale("log")
    for k, error, lds in rows:
        look = style(k, len(result.steps))
        if error <= 0:
            axes.axhline(lds.estimate, color=look["color"], linestyle=":", linewidth=1.4)
            continue
        low, high = _ends([lds])
        reach = np.maximum([lds.estimate - low, high - lds.estimate], 0)
        look = look | {"linestyle": "none", "markersize": 7.5, "capsize": 2.5, "elinewidth": 1.2}
        axes.errorbar([error], [lds.estimate], yerr=reach, **look)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


def _error_axis(axes: Axes, rows: Sequence[_Row]) -> None:
    """A logarithmic axis with room at both ends and at least three round ticks."""
    errors = [error for _, error, _ in rows if error > 0]
    room = (max(errors) / min(errors)) ** 0.12 * 1.15
    low, high = min(errors) / room, max(errors) * room
    axes.set_xlim(low, high)
    ticks = next((found for steps in _ROUND if len(found := _ticks(low, high, steps)) >= 3), [])
    thin = ticks[:: 1 + (len(ticks) - 1) // 8] if ticks else [min(errors), max(errors)]
    axes.set_xticks(thin, [setting(tick) for tick in thin])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float, steps: Sequence[float]) -> list[float]:
    """All `step · 10^k` between two positive numbers.

    >>> _ticks(0.3, 6.0, (1, 2, 5))
    [0.5, 1.0, 2.0, 5.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in found if low <= tick <= high]


def _label_points(figure: Figure, axes: Axes, rows: Sequence[_Row], result: Result) -> None:
    """Name each point and line where nothing else stands; a moved label gets a thin leader."""
    left = axes.get_xlim()[0]
    names = [short_name(result.steps[k].label) for k, _, _ in rows]
    points = [
        Target(name, (error, lds.estimate), _span(lds))
        for name, (_, error, lds) in zip(names, rows, strict=True)
        if error > 0
    ]
    lines = [
        Target(f"{name} (error 0)", (left, lds.estimate), None)
        for name, (_, error, lds) in zip(names, rows, strict=True)
        if error <= 0
    ]
    place_labels(figure, axes, [*lines, *points])


def _span(lds: Interval) -> tuple[float, float]:
    low, high = _ends([lds])
    return float(low[0]), float(high[0])


def _ends(intervals: Sequence[Interval | None]) -> tuple[Any, Any]:
    """Lower and upper ends as arrays; the estimate itself where the interval has no ends."""
    items = [Interval(math.nan, math.nan, math.nan) if x is None else x for x in intervals]
    middle = np.array([item.estimate for item in items])
    low, high = np.array([item.low for item in items]), np.array([item.high for item in items])
    ended = np.isfinite(low) & np.isfinite(high)
    return np.where(ended, low, middle), np.where(ended, high, middle)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
