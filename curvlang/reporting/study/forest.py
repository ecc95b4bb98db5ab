"""LDS of many methods as a line each, name beside interval: scatter plots of many are hard to read."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.figures.style import SOFT, Drawing, drawn, ends, settings, short_name
from curvlang.reporting.notation import setting
from curvlang.reporting.study.findings import place, spot_of

MANY = 8
"""Methods from which on they are listed."""
_LINE = 0.27
_MOST = 3


def lds_of_methods(result: StudyResult) -> Drawing:
    """Every method with its LDS at its best λ, the largest at the top; the first groups."""
    name, title = "lds-methods", "LDS of every method"
    caption = "Each at its own best setting, named at the right; bars are intervals."
    groups = [g for g in result.groups if g.protocol is not None][:_MOST]
    if not groups:
        return Drawing(name, title, caption, None, "No models were retrained in this study.")
    with settings(name):
        height = _LINE * len(result.methods) + 0.9
        figure = Figure((max(4.2 * len(groups), 6.6), height), layout="constrained")
        for axes, group in zip(
            figure.subplots(1, len(groups), squeeze=False).flat, groups, strict=True
        ):
            _draw(axes, group)
        return drawn(name, title, caption, figure)


def _draw(axes: Axes, group: Group) -> None:
    found: list[tuple[float, str, Interval, str]] = []
    for row in group.rows:
        spot = spot_of(row, row.best)
        if spot is not None and spot.lds is not None:
            at = "" if spot.damping is None else f"λ = {setting(spot.damping)}"
            found.append((spot.lds.estimate, short_name(row.label), spot.lds, at))
    found.sort(key=lambda item: item[0])
    for y, (middle, _, interval, at) in enumerate(found):
        low, high = (float(end[0]) for end in ends([interval]))
        axes.plot([low, high], [y, y], color=SOFT, linewidth=1.4)
        axes.plot([middle], [y], "o", color="#1f4e79", markersize=5)
        axes.annotate(
            at,
            (high, y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="#666666",
        )
    axes.set_yticks(range(len(found)), [label for _, label, _, _ in found], fontsize=9)
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.set_xlabel("LDS at its best λ")
    axes.set_title(place(group), fontsize=10, loc="left")
