"""LDS against error, a labelled point per step: the figure that the literature draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from curvlang.evaluation.result import Point, Result
from curvlang.evaluation.statistics.interval import Interval
from curvlang.reporting.figures.labels import Target, place_labels
from curvlang.reporting.figures.style import (
    NO_LDS,
    WIDTH,
    Drawing,
    ceiling_band,
    ends,
    finite,
    settings,
    short_name,
    style,
    svg_text,
)
from curvlang.reporting.notation import known, setting
from curvlang.reporting.tables.words import at_shared, has_lds, shared_damping

_ROUND = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 2, 3, 4, 6, 8),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)
"""Mantissas of ticks, coarse to fine."""


def lds_by_error(result: Result, kind: Literal["forward", "inverse"]) -> Drawing:
    """LDS at the shared λ against an error on a logarithmic axis, a labelled point per step.

    A step without error (the reference, forward) has no place on the axis: a horizontal line.
    """
    name, title = f"against-{kind}", f"LDS against {kind} error"
    where = shared_damping(result)
    caption = f"One point per step{', ' + where if where else ''}; bars are bootstrap intervals."
    if not has_lds(result):
        return Drawing(name, title, caption, None, NO_LDS)
    rows = list(_error_and_lds(result, kind))
    if len([error for _, error, _ in rows if error > 0]) < 2:
        reason = f"Fewer than two steps have an LDS and a known {kind} error above zero."
        return Drawing(name, title, caption, None, reason)
    if any(error == 0 for _, error, _ in rows):
        caption += (
            " A horizontal line is a step without error, which a logarithmic axis cannot show."
        )
    with settings(name):
        figure = Figure((WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        ceiling_band(axes, result)
        _points(axes, rows, result)
        _error_axis(axes, rows)
        axes.set_xlabel(f"{kind} error against {short_name(result.reference)}")
        axes.set_ylabel(f"LDS at {where}" if where else "LDS")
        _label_points(figure, axes, rows, result)
        return Drawing(name, title, caption, svg_text(figure, name))


_Row = tuple[int, float, Interval]


def _error_and_lds(result: Result, kind: Literal["forward", "inverse"]) -> Iterator[_Row]:
    """Position of the step, its error and its LDS, where both are finite."""
    for k, step in enumerate(result.steps):
        point = at_shared(step) or Point(None)
        error = finite(step.forward if kind == "forward" else point.inverse)
        if error is not None and point.lds is not None and known(point.lds.estimate):
            yield k, error, point.lds


def _points(axes: Axes, rows: Sequence[_Row], result: Result) -> None:
    axes.set_xscale("log")
    for k, error, lds in rows:
        look = style(k, len(result.steps))
        if error <= 0:
            axes.axhline(lds.estimate, color=look["color"], linestyle=":", linewidth=1.4)
            continue
        low, high = ends([lds])
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
    thin = round_ticks(low, high) or [min(errors), max(errors)]
    axes.set_xticks(thin, [setting(tick) for tick in thin])
    axes.xaxis.set_minor_formatter(NullFormatter())


def round_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """At least three round numbers between two positive ones, about `most` at most; none if too near."""
    ticks = next((found for steps in _ROUND if len(found := _ticks(low, high, steps)) >= 3), [])
    return ticks[:: 1 + max(0, len(ticks) - 1) // most]


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
    low, high = ends([lds])
    return float(low[0]), float(high[0])
