"""The figure of the first page: LDS over the damping for every step of a path, drawn from a study's own numbers.

Colours are those of the page, light or dark, by classes of its style sheet.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10, sqrt
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "results" / "regularisation.json.gz"
NAMES = {
    "hessian": "Hessian",
    "ggn": "Gauss–Newton",
    "block_ggn": "block Gauss–Newton",
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
}
"""Curvatures that are drawn, in the order of their colours."""
LOWEST, HIGHEST, TICK = 0.0, 1.0, 0.2
GAP = 19
"""Pixels between two names below each other."""


@dataclass(frozen=True)
class Layout:
    """Where the axes lie, in pixels, and whether the names stand beside the lines or below the axis."""

    kind: str
    width: int
    height: int
    right: int
    bottom: int
    beside: bool
    left: int = 44
    top: int = 22


LAYOUTS = (
    Layout("wide", 760, 400, right=178, bottom=52, beside=True),
    Layout("narrow", 360, 400, right=12, bottom=132, beside=False),
)
"""For a screen, and for a telephone; the style sheet shows one of them."""


@dataclass(frozen=True)
class Curve:
    """LDS of one curvature over λ, with its interval."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]


def svg() -> str:
    """The figure as a piece of HTML."""
    group = _group(groups())
    curves = [_curve(row) for row in group["rows"] if row["label"] in NAMES]
    curves.sort(key=lambda x: list(NAMES).index(x.name))
    ceiling = sqrt(group["ceiling"]["estimate"])
    return "".join(piece for at in LAYOUTS for piece in _drawn(at, curves, ceiling))


def groups() -> Sequence[Mapping[str, Any]]:
    """The cells of the study."""
    found: Sequence[Mapping[str, Any]] = json.loads(gzip.decompress(DATA.read_bytes()))["groups"]
    return found


def _group(groups: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Depth 1 under the one inverse that adds λ."""
    return next(
        g for g in groups if g["values"] == {"depth": 1} and g["inverse"].startswith("tikhonov")
    )


def _curve(row: Mapping[str, Any]) -> Curve:
    spots = sorted(row["spots"], key=lambda x: x["damping"])
    values = [(s["damping"], *(s["lds"][k] for k in ("estimate", "low", "high"))) for s in spots]
    return Curve(row["label"], tuple(values))


def _drawn(at: Layout, curves: Sequence[Curve], ceiling: float) -> Iterator[str]:
    grid = [x[0] for x in curves[0].points]
    across = _Scale(log10(grid[0]), log10(grid[-1]), at.left, at.width - at.right)
    up = _Scale(LOWEST, HIGHEST, at.height - at.bottom, at.top)
    yield f'<svg class="figure {at.kind}" viewBox="0 0 {at.width} {at.height}" role="img" aria-label="{_label(curves)}">'
    yield from _axes(at, grid, across, up)
    y = up(ceiling)
    yield f'<line class="ceiling" x1="{at.left}" x2="{at.width - at.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    x, y = (at.width - at.right + 12, y + 4) if at.beside else (at.left + 6, y + 16)
    yield f'<text x="{x}" y="{y:.1f}">noise ceiling</text>'
    for k, curve in enumerate(curves):
        yield from _line(k, curve, across, up)
    yield from _beside(at, curves, up) if at.beside else _below(at, curves)
    yield "</svg>"


def _axes(at: Layout, grid: Sequence[float], across: _Scale, up: _Scale) -> Iterator[str]:
    for k in range(round((HIGHEST - LOWEST) / TICK) + 1):
        y = up(LOWEST + k * TICK)
        yield f'<line class="grid" x1="{at.left}" x2="{at.width - at.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{at.left - 10}" y="{y + 4:.1f}" text-anchor="end">{LOWEST + k * TICK:.1f}</text>'
    for power in range(round(log10(grid[0])), round(log10(grid[-1])) + 1):
        x = across(power)
        anchor = "end" if not at.beside and power == round(log10(grid[-1])) else "middle"
        yield f'<text x="{x:.1f}" y="{at.height - at.bottom + 20}" text-anchor="{anchor}">{10.0**power:g}</text>'
    middle = (at.left + at.width - at.right) / 2
    yield f'<text class="axis" x="{middle}" y="{at.height - at.bottom + 42}" text-anchor="middle">damping λ</text>'
    yield f'<text class="axis" x="{at.left - 32}" y="{at.top - 8}">LDS: agreement with retraining</text>'


def _line(k: int, curve: Curve, across: _Scale, up: _Scale) -> Iterator[str]:
    places = [(across(log10(at)), up(y), up(low), up(high)) for at, y, low, high in curve.points]
    above = [(x, up.inside(high)) for x, _, _, high in places]
    below = [(x, up.inside(low)) for x, _, low, _ in reversed(places)]
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


def _beside(at: Layout, curves: Sequence[Curve], up: _Scale) -> Iterator[str]:
    """Names beside the ends of the lines, far enough from each other."""
    ends = sorted((up(c.points[-1][1]), k) for k, c in enumerate(curves))
    middle = sum(y for y, _ in ends) / len(ends)
    for place, (_, k) in enumerate(ends):
        y = middle + GAP * (place - (len(ends) - 1) / 2)
        yield _name(k, curves[k], at.width - at.right + 12, y + 4)


def _below(at: Layout, curves: Sequence[Curve]) -> Iterator[str]:
    """Names in two columns below the axis."""
    for k, curve in enumerate(curves):
        x = at.left + (k % 2) * (at.width - at.left) / 2
        yield _name(k, curve, x, at.height - at.bottom + 76 + GAP * (k // 2))


def _name(k: int, curve: Curve, x: float, y: float) -> str:
    return f'<text class="name c{k}" x="{x:.1f}" y="{y:.1f}">{escape(NAMES[curve.name])}</text>'


def _label(curves: Sequence[Curve]) -> str:
    best = (f"{NAMES[c.name]} at most {max(x[1] for x in c.points):.2f}" for c in curves)
    return escape(f"LDS over the damping, from 0.0001 to 1: {', '.join(best)}")


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

    def inside(self, pixels: float) -> float:
        """The nearest place on the axis."""
        return min(max(pixels, min(self.start, self.stop)), max(self.start, self.stop))
