"""The six figures of the evidence: small panels, told apart by marker and line as well as by shade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from evidence_cases import FINDINGS, OWN, PSEUDO, SHARED, Case, cases, compared, own
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.study_result import Group, StudyResult
from curvlang.reporting.figures.panels import panels
from curvlang.reporting.figures.style import INK, SOFT, Drawing, drawn, ends, settings
from curvlang.reporting.study.findings import place, spot_of
from curvlang.reporting.study.group_figures import (
    lds_by_damping,
    lds_by_error,
    shares,
)

Results = Mapping[str, StudyResult]
SWEEPS = ("depth", "width", "epochs")
LOOKS = {
    OWN: ("own λ", {"color": "#111111", "marker": "o", "linestyle": "-"}),
    SHARED: ("one λ for all", {"color": "#6b6b6b", "marker": "s", "linestyle": "--"}),
    PSEUDO: ("pseudo-inverse", {"color": "#a3a3a3", "marker": "^", "linestyle": ":"}),
}


def figures(results: Results) -> tuple[Drawing, ...]:
    """In the order of the page."""
    return (
        along_the_path(results),
        _renamed(lds_by_error(_groups(results, "pseudo")), "error", ERROR),
        _renamed(lds_by_damping(_groups(results, "tikhonov", ("depth", "width"))), "damping"),
        _renamed(shares(_groups(results, "pseudo")), "shares"),
        residual(results),
        survey(results),
    )


ERROR = (
    "‖H C⁺v − v‖²/‖v‖² over gradients of training examples under a pseudo-inverse; left is better approximated, up is "
    "better attributed. Were a smaller error a better attribution, the points would fall from left to right."
)


def _renamed(drawing: Drawing, name: str, caption: str = "") -> Drawing:
    return replace(drawing, name=name, caption=caption or drawing.caption)


def _groups(results: Results, inverse: str, names: Sequence[str] = SWEEPS) -> StudyResult:
    """One study of the groups of several, the first of each place that has this inverse."""
    found: dict[tuple[str, str], Group] = {}
    for name in names:
        for group in results[name].groups if name in results else ():
            # The literature's threshold comes last where both are there.
            if group.inverse.startswith(inverse):
                found[name, place(group)] = group
    first = results[names[0]]
    return replace(first, groups=tuple(found.values()))


def along_the_path(results: Results) -> Drawing:
    """LDS of every curvature of the path under three ways of comparing, a panel for each place."""
    name, title = "path", "LDS along the path H → GGN → block GGN → EK-FAC → K-FAC"
    caption = (
        "At its own λ (held out where λ was chosen by cross-validation), at one λ for all, and under a pseudo-inverse. "
        "Bars are 95 % intervals over models, subsets and queries; dashed: what a predictor without noise reaches."
    )
    places = [
        (s, p) for s in SWEEPS if s in results for p in dict.fromkeys(map(place, results[s].groups))
    ]

    def draw(axes: Axes, at: tuple[str, str]) -> None:
        groups = [g for g in results[at[0]].groups if place(g) == at[1]]
        for group in groups:
            _lines(axes, group)
        ceiling = groups[0].ceiling
        if ceiling is not None:
            axes.axhline(
                max(0.0, ceiling.estimate) ** 0.5, color=SOFT, linewidth=1, linestyle=(0, (6, 3))
            )
        axes.set_ylim(0, 1)
        axes.set_ylabel("LDS")
        axes.set_xticks(range(5), ["H", "GGN", "block\nGGN", "EK-\nFAC", "K-\nFAC"], fontsize=8.5)
        axes.tick_params(axis="x", length=0)

    handles = [Line2D([], [], label=text, markersize=6, **look) for text, look in LOOKS.values()]
    titles = [f"{p} ({_models(results[s])})" for s, p in places]
    return panels((name, title, caption), places, titles, draw, handles)


def _models(result: StudyResult) -> str:
    return f"{len(result.seeds)} models"


def _lines(axes: Axes, group: Group) -> None:
    shared = [None if (s := spot_of(r, group.shared)) is None else s.lds for r in group.rows]
    if len(group.sweep) > 1 and group.inverse.startswith("tikhonov"):
        _line(axes, [own(r) for r in group.rows], OWN, -0.08)
        _line(axes, shared, SHARED, 0.0)
    elif group.inverse.startswith("pseudo(rtol = 1e-4)"):
        _line(axes, shared, PSEUDO, 0.08)


def _line(axes: Axes, values: Sequence[Interval | None], kind: str, aside: float) -> None:
    middle = np.array([np.nan if v is None else v.estimate for v in values])
    low, high = ends(values)
    reach = np.maximum([middle - low, high - middle], 0)
    x = np.arange(len(values)) + aside
    axes.errorbar(
        x,
        middle,
        yerr=reach,
        capsize=2,
        elinewidth=0.9,
        linewidth=1.4,
        markersize=5,
        **LOOKS[kind][1],
    )


def residual(results: Results) -> Drawing:
    """‖R‖/‖H‖ along depth, width and training."""
    name, title = "residual", "The residual R = H − GGN against the Hessian"
    caption = "‖R‖/‖H‖ in Frobenius norm, the mean over models as a line and each model as a point."
    parts = [results[x] for x in (f"residual_{s}" for s in SWEEPS) if x in results]

    def draw(axes: Axes, result: StudyResult) -> None:
        (axis,) = result.axes
        x = [float(g.values[axis]) for g in result.groups]
        rows = [g.rows[1] for g in result.groups]
        axes.plot(x, [r.forward for r in rows], "-o", color=INK, linewidth=1.5, markersize=5)
        for at, row in zip(x, rows, strict=True):
            axes.plot([at] * len(row.forwards), row.forwards, ".", color="#777777", markersize=5)
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{v:g}" for v in x])
        axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)
        axes.set_xlabel(axis)
        axes.set_ylabel("‖R‖ / ‖H‖")
        axes.set_ylim(0, 1.05)

    titles = [f"{next(iter(r.axes))} ({_models(r)})" for r in parts]
    return panels((name, title, caption), parts, titles, draw, [])


def survey(results: Results) -> Drawing:
    """H − K-FAC in every case, sorted within the way of comparing."""
    name, title = "survey", "Hessian minus K-FAC in every case"
    caption = (
        "Difference of LDS with its 95 % interval, a line for each place of every study. Filled: told apart after Holm's "
        "correction; open: not told apart. Right of zero the Hessian is better."
    )
    found = cases(results)
    with settings(name):
        figure = Figure((9.6, 0.5 + 0.13 * _most(found)), layout="constrained")
        for axes, finding in zip(figure.subplots(1, 3, sharex=False), FINDINGS[:3], strict=True):
            _forest(axes, sorted(compared(found, finding), key=lambda x: x[1].difference.estimate))
            axes.set_title(LOOKS[finding.way][0], fontsize=10.5, loc="left")
            axes.set_xlabel("LDS of H − LDS of K-FAC")
        return drawn(name, title, caption, figure)


def _most(found: Sequence[Case]) -> int:
    return max(8, *(len(list(compared(found, f))) for f in FINDINGS[:3]))


def _forest(axes: Axes, pairs: Sequence[tuple[Case, object]]) -> None:
    axes.axvline(0, color=INK, linewidth=0.9)
    for y, (_, pair) in enumerate(pairs):
        low, high = (float(x[0]) for x in ends([pair.difference]))
        apart = pair.verdict != "cannot be told apart"
        axes.plot([low, high], [y, y], color=SOFT, linewidth=1.2)
        face = INK if apart else "white"
        axes.plot(
            [pair.difference.estimate], [y], "o", color=INK, markerfacecolor=face, markersize=4.5
        )
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylabel(f"{len(pairs)} cases")
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
