"""Names beside points of a figure, set so that they cover neither points nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

_MARGIN = 1.5
_POINT = 6.0
_LINE = 1.5
_DISTANCES = (8, 14, 22, 32, 44, 58, 74, 92, 112)
_DIRECTIONS = tuple(
    (x, y)
    for x, y in product((1.0, 0.6, 0.0, -0.6, -1.0), (0.0, 0.5, -0.5, 1.0, -1.0))
    if max(abs(x), abs(y)) == 1
)
_FAR = 14
_LEADER = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkB": 5, "shrinkA": 0}


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be named: a point at (x, y) with the ends of its error bar, in data units.

    `bar` None: a horizontal line across the axes, of which (x, y) is the left end.
    """

    name: str
    at: tuple[float, float]
    bar: tuple[float, float] | None


def place_labels(figure: Figure, axes: Axes, targets: Sequence[Target]) -> None:
    """Write each name near its target, inside the axes and over nothing else.

    Candidates grow outwards in all directions; the first that is free is taken, so that the order
    of the targets decides. Where none is free, the one that covers least is taken.

    Args:
        figure: The figure of the axes; it is laid out here, so everything else is drawn before.
        axes: Where the targets are.
        targets: What to name.
    """
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [Text.get_window_extent(text, renderer) for text in axes.texts]
    taken += [_covered(axes, target, frame) for target in targets]
    for target in targets:
        label = _best(axes, target, taken, frame, renderer)
        taken.append(_box(label, renderer))


def _best(
    axes: Axes, target: Target, taken: Sequence[Bbox], frame: Bbox, renderer: RendererAgg
) -> Annotation:
    """The first label that covers nothing, or the one that covers least."""
    kept: Annotation | None = None
    least = float("inf")
    for distance, direction in product(_DISTANCES, _DIRECTIONS):
        label = _annotate(axes, target, distance, direction)
        box = _box(label, renderer)
        cost = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
        if cost >= least and kept is not None:
            label.remove()
            continue
        if kept is not None:
            kept.remove()
        kept, least = label, cost
        if cost == 0:
            break
    assert kept is not None, "the candidates are never empty"
    return kept


def _annotate(
    axes: Axes, target: Target, distance: int, direction: tuple[float, float]
) -> Annotation:
    x, y = direction
    label = axes.annotate(
        target.name,
        target.at,
        xytext=(distance * x, distance * y),
        textcoords="offset points",
        ha="left" if x > 0 else "right" if x < 0 else "center",
        va="bottom" if y > 0 else "top" if y < 0 else "center",
        arrowprops=_LEADER if distance > _FAR and target.bar is not None else None,
    )
    label.set_in_layout(False)
    return label


def _box(label: Annotation, renderer: RendererAgg) -> Bbox:
    """The text's own box, in display units, without the leader."""
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer).padded(_MARGIN)


def _covered(axes: Axes, target: Target, frame: Bbox) -> Bbox:
    """What a label must not cover: the marker with its error bar, or the line."""
    x, y = axes.transData.transform(target.at)
    if target.bar is None:
        return Bbox.from_extents(frame.x0, y - _LINE, frame.x1, y + _LINE)
    low, high = (axes.transData.transform((target.at[0], end))[1] for end in target.bar)
    return Bbox.from_extents(x - _POINT, min(low, y - _POINT), x + _POINT, max(high, y + _POINT))


def _overlap(one: Bbox, other: Bbox) -> float:
    """Area that two boxes share."""
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)


def _outside(box: Bbox, frame: Bbox) -> float:
    """Area of a box that lies outside the axes."""
    return float(box.width * box.height) - _overlap(box, frame)
