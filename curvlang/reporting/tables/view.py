"""The tables as plain text cells, before they are drawn: the terminal and the page read these.

A `Panel` is one table; the first column of every panel names the step. The chain comes as
several panels (what each step is, its errors, its LDS), which a wide terminal joins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from curvlang.diagnostics.amounts import size
from curvlang.evaluation.result import Point, Result, Step
from curvlang.reporting.notation import (
    MISSING,
    bounds,
    correlation,
    known,
    quantity,
    setting,
    share,
    with_error,
)
from curvlang.reporting.tables.words import at_shared, has_lds, interval_name, shared_damping

Measure = Callable[[Point], float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, a cell for each step, and the rows that stand out."""

    head: str
    cells: tuple[str, ...]
    right: bool = True
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Panel:
    """A titled group of columns that belong together; `place` is the λ that its numbers hold at."""

    title: str
    columns: tuple[Column, ...]
    place: str = ""

    @property
    def heading(self) -> str:
        """The title with its λ."""
        return f"{self.title}, {self.place}" if self.place else self.title


def steps(result: Result) -> Column:
    """The column that names the rows."""
    return Column("step", tuple(step.label for step in result.steps), right=False)


def chain(result: Result) -> tuple[Panel, ...]:
    """What each step is, its errors one by one and, where models were retrained, its LDS."""
    panels = [_what(result), *_errors(result)]
    if has_lds(result):
        panels.append(_quality(result))
    return tuple(panels)


def joined(panels: Sequence[Panel]) -> Panel:
    """One panel with all columns; its title names each part and the λ once."""
    title = " · ".join(dict.fromkeys(panel.title for panel in panels))
    place = next((panel.place for panel in panels if panel.place), "")
    return Panel(title, tuple(c for panel in panels for c in panel.columns), place)


def curve(result: Result) -> Panel | None:
    """LDS of every step at every λ, the best of each row strong; the influence error without LDS.

    None where the inverse has no λ to sweep, and where nothing is known along it.
    """
    if not result.sweep:
        return None
    if has_lds(result):
        return _curve(result, "LDS by λ", lds_of, correlation, max)
    if not any(known(point.influence) for step in result.steps for point in step.points):
        return None
    title = f"influence error by λ (1 − Spearman against {result.reference})"
    return _curve(result, title, lambda point: point.influence, quantity, min)


def lds_of(point: Point) -> float | None:
    """The LDS alone, without its interval."""
    return None if point.lds is None else point.lds.estimate


def at_damping(step: Step, damping: float) -> Point | None:
    """The step's point at a λ of the sweep."""
    for point in step.points:
        if point.damping is not None and math.isclose(point.damping, damping, rel_tol=1e-9):
            return point
    return None


def _what(result: Result) -> Panel:
    rows = result.steps
    columns = (
        Column("stage", tuple(step.stage for step in rows), right=False),
        Column("structure", tuple(step.structure for step in rows), right=False),
        Column("memory", tuple(size(step.memory) for step in rows)),
        Column("passes", tuple(str(step.passes) for step in rows)),
    )
    return Panel("stages", columns)


def _errors(result: Result) -> tuple[Panel, Panel, Panel]:
    points = _shared_points(result)
    forward = tuple(with_error(s.forward, s.forward_standard_error) for s in result.steps)
    inverse = tuple(with_error(p.inverse, p.inverse_standard_error) for p in points)
    influence = [point.influence for point in points]
    forward_shares = _shares([step.forward_share for step in result.steps])
    inverse_shares = _shares([point.inverse_share for point in points])
    influence_shares = _shares([point.influence_share for point in points])
    cosine = Column("cosine", tuple(correlation(point.cosine) for point in points))
    title, place = f"error against {result.reference}", shared_damping(result)
    return (
        Panel(title, (Column("forward", forward), *forward_shares), place),
        Panel(title, (Column("inverse", inverse), *inverse_shares), place),
        Panel(title, (_quantities("influence", influence), *influence_shares, cosine), place),
    )


def _quantities(head: str, values: Sequence[float | None]) -> Column:
    return Column(head, tuple(quantity(value) for value in values))


def _quality(result: Result) -> Panel:
    points = _shared_points(result)
    columns = [
        Column("LDS", tuple(correlation(lds_of(point)) for point in points)),
        Column(interval_name(result), tuple(bounds(point.lds) for point in points)),
        *_shares([point.lds_share for point in points]),
    ]
    if len(result.sweep) > 1:
        columns += _best(result)
    return Panel("LDS", tuple(columns), shared_damping(result))


def _best(result: Result) -> tuple[Column, Column]:
    best = [None if s.best is None or not s.points else s.points[s.best] for s in result.steps]
    values = tuple(MISSING if point is None else correlation(lds_of(point)) for point in best)
    places = tuple(
        MISSING if point is None or point.damping is None else setting(point.damping)
        for point in best
    )
    return Column("best", values), Column("at λ", places)


def _shares(values: Sequence[float | None]) -> tuple[Column, ...]:
    """The first step has no share: its cell is empty; a chain of one step has no such column."""
    if len(values) < 2:
        return ()
    first = "" if not known(values[0]) else share(values[0])
    return (Column("share", (first, *(share(value) for value in values[1:]))),)


def _shared_points(result: Result) -> tuple[Point, ...]:
    return tuple(at_shared(step) or Point(None) for step in result.steps)


def _curve(
    result: Result,
    title: str,
    measure: Measure,
    write: Callable[[float | None], str],
    better: Callable[[Iterable[float]], float],
) -> Panel:
    grid = [
        [
            measure(found) if (found := at_damping(step, damping)) else None
            for damping in result.sweep
        ]
        for step in result.steps
    ]
    marked = [_winners(row, better) if len(result.sweep) > 1 else frozenset() for row in grid]
    columns = tuple(
        Column(
            f"λ = {setting(damping)}",
            tuple(write(row[k]) for row in grid),
            strong=frozenset(n for n, winners in enumerate(marked) if k in winners),
        )
        for k, damping in enumerate(result.sweep)
    )
    return Panel(title, columns)


def _winners(
    row: Sequence[float | None], better: Callable[[Iterable[float]], float]
) -> frozenset[int]:
    values = [value for value in row if value is not None and not math.isnan(value)]
    if not values:
        return frozenset()
    top = better(values)
    return frozenset(k for k, value in enumerate(row) if value == top)
