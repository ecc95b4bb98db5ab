"""The figures of a study as SVG text, one small panel for each group, methods alike in all of them.

LDS against error, shares of error and LDS, forward error along the sweep, LDS against λ with the
ceilings, LDS along the sweep, LDS against cost; spectra and attributed queries of single models
(`study_models`). Colours grow lighter along the methods; markers and
lines differ as well, so that nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.study_result import Group, Row, StudyResult
from curvlang.reporting.figures.panels import log_ticks, method_handles, panels
from curvlang.reporting.figures.style import (
    INK,
    SOFT,
    Drawing,
    ends,
    finite,
    short_name,
    style,
)
from curvlang.reporting.notation import known, setting, value
from curvlang.reporting.study.cells import inverse_name
from curvlang.reporting.study.findings import place, spot_of
from curvlang.reporting.study.forest import MANY, lds_of_methods
from curvlang.reporting.study.models import attributed_queries, spectra_by_block

_NO_LDS = "No models were retrained in this study, so there is no LDS to draw."


def study_drawings(result: StudyResult) -> tuple[Drawing, ...]:
    """All figures, in the order of the report; those that have nothing to show say why."""
    few = len(result.methods) <= MANY
    names = (name for name in STUDY_FIGURES if not (few and name == "lds-methods"))
    return tuple(STUDY_FIGURES[name](result) for name in names)


def lds_by_error(result: StudyResult) -> Drawing:
    """LDS against the inverse error at the shared λ, a point for each curvature."""
    name, title = "lds-error", "LDS against the error of the inverse"
    caption = (
        "‖H C⁻¹v − v‖²/‖v‖² over training gradients, at the λ that is shared; bars are intervals of "
        "the LDS. Left is better approximated, up is better attributed."
    )
    groups = _scored(result)
    if not groups:
        return Drawing(name, title, caption, None, _NO_LDS)

    def draw(axes: Axes, group: Group) -> None:
        for k, row in enumerate(group.rows):
            spot = spot_of(row, group.shared)
            error = None if spot is None else finite(spot.inverse)
            if spot is not None and spot.lds is not None and error is not None and error > 0:
                _point(axes, error, spot.lds, style(k, len(group.rows)))
        _log(axes)
        axes.set_xlabel(f"inverse error{_at(group)}")
        axes.set_ylabel("LDS")

    return _group_panels(
        (name, title, caption), groups, draw, method_handles(result.methods, lines=False)
    )


def shares(result: StudyResult) -> Drawing:
    """What each step of the path adds to the errors and takes from the LDS, in percent."""
    name, title = "shares", "Shares of the path's error and LDS"
    caption = (
        "Of what the path adds in all, from its first curvature to its last; below zero, the step "
        "repairs. Where the steps all but cancel there is no bar: shares of such a total would mean nothing."
    )
    groups = [g for g in result.groups if len(g.shares) > 1]
    if not groups:
        return Drawing(name, title, caption, None, "The study has no path of three curvatures.")
    kinds: list[tuple[str, dict[str, Any], Callable[[Any], float | None]]] = [
        ("forward error", {"color": "#3b3b3b"}, lambda s: s.forward),
        ("inverse error", {"color": "#9a9a9a"}, lambda s: s.inverse),
    ]
    if _scored(result):
        kinds.append(("LDS", {"color": "white", "hatch": "////"}, lambda s: s.lds_share))

    def draw(axes: Axes, group: Group) -> None:
        width = 0.8 / len(kinds)
        for j, (_, look, of) in enumerate(kinds):
            for k, item in enumerate(group.shares):
                height = finite(of(item))
                if height is not None:
                    at = k + (j - (len(kinds) - 1) / 2) * width
                    axes.bar(
                        at, 100 * height, 0.92 * width, edgecolor="#3b3b3b", linewidth=0.7, **look
                    )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(group.shares)), [short_name(s.label) for s in group.shares])
        axes.tick_params(axis="x", length=0)
        for label in axes.get_xticklabels():
            label.set(rotation=25, ha="right", rotation_mode="anchor")
        axes.set_ylabel(f"share of total, %{_at(group)}")

    handles = [
        Patch(label=text, edgecolor="#3b3b3b", facecolor=look["color"], hatch=look.get("hatch", ""))
        for text, look, _ in kinds
    ]
    return _group_panels((name, title, caption), groups, draw, handles)


def forward_by_sweep(result: StudyResult) -> Drawing:
    """‖C − H‖/‖H‖ of every curvature along the sweep: for the first step, the residual's size."""
    name, title = "forward", "Forward error along the sweep"
    caption = (
        "‖C − H‖/‖H‖ in Frobenius norm, the mean over models; small points are the models. For "
        "H without its residual R this is ‖R‖/‖H‖."
    )
    one = replace(result, groups=tuple(g for g in result.groups if g.inverse == _first(result)))
    return _along(one, name, title, caption, "‖C − H‖ / ‖H‖", _forward_points)


def _first(result: StudyResult) -> str:
    """The forward error is the same under every inverse: the first one stands for all."""
    return next((g.inverse for g in result.groups), "")


def lds_by_sweep(result: StudyResult) -> Drawing:
    """The LDS of every curvature at its best λ along the sweep, with its interval."""
    name, title = "lds-sweep", "LDS along the sweep"
    caption = "Each curvature at its own best setting; bars are intervals."
    if not _scored(result):
        return Drawing(name, title, caption, None, _NO_LDS)
    return _along(result, name, title, caption, "LDS at its best λ", _lds_points)


def lds_by_damping(result: StudyResult) -> Drawing:
    """LDS against λ for every curvature, with what bounds it."""
    name, title = "lds-damping", "LDS against λ"
    many = len(result.methods) > MANY
    caption = (
        f"{'' if many else 'Bands are intervals. '}Dashed: √ρ, what a predictor without noise reaches against this "
        "ground truth. Dotted: an additive predictor learned from the subsets themselves."
    )
    groups = [g for g in _scored(result) if len(_grid(g)) > 1]
    if not groups:
        reason = _NO_LDS if not _scored(result) else "No inverse of the study is swept over λ."
        return Drawing(name, title, caption, None, reason)

    def draw(axes: Axes, group: Group) -> None:
        for k, row in enumerate(group.rows):
            _band(axes, group, row, style(k, len(group.rows)))
        _ceilings(axes, group)
        _log(axes)
        axes.set_xlabel("λ")
        axes.set_ylabel("LDS")

    return _group_panels(
        (name, title, caption), groups, draw, [*method_handles(result.methods), *_ceiling_handles()]
    )


def lds_by_cost(result: StudyResult) -> Drawing:
    """The best LDS of every curvature against the operations that fitting it takes."""
    name, title = "lds-cost", "LDS against cost"
    caption = (
        "Floating-point operations of fitting the curvature alone, the model's passes included; each "
        "at its own best setting."
    )
    groups = _scored(result)
    if not groups:
        return Drawing(name, title, caption, None, _NO_LDS)

    def draw(axes: Axes, group: Group) -> None:
        for k, row in enumerate(group.rows):
            spot = spot_of(row, row.best)
            if row.flops and spot is not None and spot.lds is not None:
                _point(axes, float(row.flops), spot.lds, style(k, len(group.rows)))
        _log(axes)
        axes.set_xlabel("FLOPs")
        axes.set_ylabel("LDS at its best λ")

    return _group_panels(
        (name, title, caption), groups, draw, method_handles(result.methods, lines=False)
    )


def _group_panels(
    drawing: tuple[str, str, str],
    groups: Sequence[Group],
    draw: Callable[[Axes, Group], None],
    handles: Sequence[Any],
) -> Drawing:
    one = len({g.inverse for g in groups}) == 1
    titles = [place(g) if one else f"{place(g)}\n{inverse_name(g)}" for g in groups]
    return panels(drawing, groups, titles, draw, handles)


# Points and lines ---------------------------------------------------------------------------


def _point(axes: Axes, x: float, lds: Interval, look: dict[str, Any]) -> None:
    low, high = ends([lds])
    reach = np.maximum([lds.estimate - low, high - lds.estimate], 0)
    plain = look | {"linestyle": "none", "markersize": 7, "capsize": 2, "elinewidth": 1.0}
    axes.errorbar([x], [lds.estimate], yerr=reach, **plain)


def _band(axes: Axes, group: Group, row: Row, look: dict[str, Any]) -> None:
    grid = _grid(group)
    by_damping = {s.damping: s.lds for s in row.spots}
    items = [by_damping.get(x) for x in grid]
    values = [math.nan if x is None else x.estimate for x in items]
    low, high = ends(items)
    if len(group.rows) <= MANY:
        axes.fill_between(grid, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axes.plot(grid, values, markersize=5, linewidth=1.5, **look)


def _grid(group: Group) -> list[float]:
    return sorted(x for x in group.sweep if x > 0)


def _ceilings(axes: Axes, group: Group) -> None:
    if group.ceiling is not None and known(group.ceiling.estimate):
        best = max(0.0, group.ceiling.estimate) ** 0.5
        axes.axhline(best, color=SOFT, linewidth=1.1, linestyle=(0, (6, 3)))
    if group.additive is not None:
        axes.axhline(group.additive.estimate, color=SOFT, linewidth=1.3, linestyle=(0, (1, 2)))


def _ceiling_handles() -> list[Any]:
    return [
        Line2D([], [], color=SOFT, linewidth=1.1, linestyle=(0, (6, 3)), label="noise ceiling √ρ"),
        Line2D([], [], color=SOFT, linewidth=1.3, linestyle=(0, (1, 2)), label="datamodel"),
    ]


def _log(axes: Axes) -> None:
    log_ticks(axes)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _at(group: Group) -> str:
    return f", λ = {setting(group.sweep[group.shared])}" if group.sweep else ""


def _scored(result: StudyResult) -> list[Group]:
    return [g for g in result.groups if g.protocol is not None]


# Along a sweep ------------------------------------------------------------------------------

_Items = Iterator[tuple[float, Interval, Sequence[float]]]


def _along(
    result: StudyResult,
    name: str,
    title: str,
    caption: str,
    label: str,
    points: Callable[[Sequence[tuple[float, Group]], int], _Items],
) -> Drawing:
    """A panel for every inverse and every value of the other axes; the last axis runs along x."""
    if not result.axes:
        return Drawing(name, title, caption, None, "The study sweeps nothing.")
    axis = max(result.axes, key=lambda a: (all(map(_number, result.axes[a])), len(result.axes[a])))
    families = _families(result, axis)
    if not any(len(f) > 1 for f in families):
        return Drawing(name, title, caption, None, "Fewer than two points of the sweep are there.")

    def draw(axes: Axes, groups: list[Group]) -> None:
        _family(axes, groups, axis, len(result.methods), points)
        axes.set_ylabel(label)

    titles = [_family_title(f[0], axis, result) for f in families]
    return panels((name, title, caption), families, titles, draw, method_handles(result.methods))


def _number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _families(result: StudyResult, axis: str) -> list[list[Group]]:
    """Groups that differ along the axis alone, one list for each rest."""

    def rest(group: Group) -> str:
        return repr((group.inverse, [v for k, v in group.values.items() if k != axis]))

    ordered = sorted(result.groups, key=rest)
    found = [list(items) for _, items in groupby(ordered, key=rest)]
    return sorted(found, key=lambda f: result.groups.index(f[0]))


def _family(
    axes: Axes,
    groups: Sequence[Group],
    axis: str,
    count: int,
    points: Callable[[Sequence[tuple[float, Group]], int], _Items],
) -> None:
    values = [g.values[axis] for g in groups]
    numeric = all(map(_number, values))
    places = [float(v) for v in values] if numeric else [float(k) for k in range(len(values))]
    spread = numeric and min(places) > 0 and max(places) / min(places) > 3
    for k in range(count):
        look = style(k, count)
        items = list(points(list(zip(places, groups, strict=True)), k))
        if not items:
            continue
        # Side by side by a little, so that error bars at one place do not hide each other.
        aside = (k - (count - 1) / 2) * (0.03 if count <= 6 else 0.012)
        x = [p * (1 + aside) if spread else p + aside for p, _, _ in items]
        means = [i.estimate for _, i, _ in items]
        low, high = ends([i for _, i, _ in items])
        reach = np.maximum([np.array(means) - low, high - np.array(means)], 0)
        axes.errorbar(
            x, means, yerr=reach, markersize=5.5, capsize=2, elinewidth=0.9, linewidth=1.5, **look
        )
        for at, _, seeds in items:
            axes.plot(
                [at] * len(seeds), list(seeds), ".", color=look["color"], markersize=3, alpha=0.7
            )
    if spread:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(places, [value(v) for v in values])
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel(axis)
    axes.margins(x=0.1)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _family_title(group: Group, axis: str, result: StudyResult) -> str:
    others = [f"{k} = {value(v)}" for k, v in group.values.items() if k != axis]
    if len({g.inverse for g in result.groups}) > 1:
        others.append(inverse_name(group))
    return ", ".join(others)


def _forward_points(places: Sequence[tuple[float, Group]], method: int) -> _Items:
    for at, group in places:
        row = group.rows[method]
        mean = finite(row.forward)
        if mean is not None:
            yield at, Interval(mean, math.nan, math.nan), row.forwards


def _lds_points(places: Sequence[tuple[float, Group]], method: int) -> _Items:
    for at, group in places:
        row = group.rows[method]
        spot = spot_of(row, row.best)
        if spot is not None and spot.lds is not None:
            yield at, spot.lds, ()


STUDY_FIGURES: Mapping[str, Callable[[StudyResult], Drawing]] = {
    "lds-error": lds_by_error,
    "shares": shares,
    "forward": forward_by_sweep,
    "lds-damping": lds_by_damping,
    "lds-sweep": lds_by_sweep,
    "lds-cost": lds_by_cost,
    "lds-methods": lds_of_methods,
    "spectra": spectra_by_block,
    "attributed": attributed_queries,
}
"""Every figure of a study, in the order of the report."""
