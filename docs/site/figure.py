"""The figure of the first page: LDS over the damping for every step of a path, drawn from a study's own numbers.

Colours are those of the page, light or dark, by classes of its style sheet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10, sqrt
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "results" / "regularisation.json"
NAMES = {
    "hessian": "Hessian",
    "ggn": "Gauss–Newton",
    "block_ggn": "block Gauss–Newton",
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
}
"""Curvatures that are drawn, in the order of their colours."""
WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 52, 178, 22, 52
LOWEST, HIGHEST, TICK = 0.0, 1.0, 0.2
GAP = 19
"""Pixels between two names beside their lines."""


@dataclass(frozen=True)
class Curve:
    """LDS of one curvature over λ, with its interval."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]


def svg() -> str:
    """The figure as a piece of HTML."""
    group = _group(json.loads(DATA.read_text("utf-8"))["groups"])
    curves = [_curve(row) for row in group["rows"] if row["label"] in NAMES]
    curves.sort(key=lambda x: list(NAMES).index(x.name))
    ceiling = sqrt(group["ceiling"]["estimate"])
    return "".join(_drawn(curves, ceiling))


def _group(groups: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Depth 1 under the one inverse that adds λ."""
    return next(
        g for g in groups if g["values"] == {"depth": 1} and g["inverse"].startswith("tikhonov")
    )


def _curve(row: Mapping[str, Any]) -> Curve:
    spots = sorted(row["spots"], key=lambda x: x["damping"])
    values = [(s["damping"], *(s["lds"][k] for k in ("estimate", "low", "high"))) for s in spots]
    return Curve(row["label"], tuple(values))


def _drawn(curves: Sequence[Curve], ceiling: float) -> Iterator[str]:
    grid = [x[0] for x in curves[0].points]
    across = _Scale(log10(grid[0]), log10(grid[-1]), LEFT, WIDTH - RIGHT)
    up = _Scale(LOWEST, HIGHEST, HEIGHT - BOTTOM, TOP)
    yield f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_label(curves)}">'
    for k in range(round((HIGHEST - LOWEST) / TICK) + 1):
        y = up(LOWEST + k * TICK)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{LOWEST + k * TICK:.1f}</text>'
    for power in range(round(log10(grid[0])), round(log10(grid[-1])) + 1):
        x = across(power)
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{10.0**power:g}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">damping λ</text>'
    yield f'<text class="axis" x="{LEFT - 40}" y="{TOP - 8}">LDS: agreement with retraining</text>'
    y = up(ceiling)
    yield f'<line class="ceiling" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    yield f'<text x="{WIDTH - RIGHT + 12}" y="{y + 4:.1f}">noise ceiling</text>'
    for k, curve in enumerate(curves):
        yield from _line(k, curve, across, up)
    yield from _names(curves, up)
    yield "</svg>"


def _line(k: int, curve: Curve, across: _Scale, up: _Scale) -> Iterator[str]:
    places = [(across(log10(at)), up(y), up(low), up(high)) for at, y, low, high in curve.points]
    above = [(x, _inside(high)) for x, _, _, high in places]
    below = [(x, _inside(low)) for x, _, low, _ in reversed(places)]
    yield f'<g class="curve c{k}"><polygon points="{_joined([*above, *below])}"/>'
    yield f'<polyline points="{_joined([(x, y) for x, y, _, _ in places])}"/>'
    best = max(range(len(places)), key=lambda j: curve.points[j][1])
    for j, (x, y, _, _) in enumerate(places):
        at, value = curve.points[j][:2]
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if j == best else 2.5}">'
            f"<title>{NAMES[curve.name]}, λ = {at:g}: LDS {value:.3f}</title></circle>"
        )
    yield "</g>"


def _names(curves: Sequence[Curve], up: _Scale) -> Iterator[str]:
    """Names beside the ends of the lines, far enough from each other."""
    ends = sorted((up(c.points[-1][1]), k) for k, c in enumerate(curves))
    middle = sum(y for y, _ in ends) / len(ends)
    for place, (_, k) in enumerate(ends):
        y = middle + GAP * (place - (len(ends) - 1) / 2)
        yield (
            f'<text class="name c{k}" x="{WIDTH - RIGHT + 12}" y="{y + 4:.1f}">'
            f"{escape(NAMES[curves[k].name])}</text>"
        )


def _label(curves: Sequence[Curve]) -> str:
    best = (f"{NAMES[c.name]} at most {max(x[1] for x in c.points):.2f}" for c in curves)
    return escape(f"LDS over the damping, from 0.0001 to 1: {', '.join(best)}")


def _inside(y: float) -> float:
    return min(max(y, TOP), HEIGHT - BOTTOM)


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


@dataclass(frozen=True)
class _Scale:
    """Numbers to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)
