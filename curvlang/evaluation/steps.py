"""Rows of a result: what each is, its errors, its LDS, and its share of the path's total."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curvlang.evaluation.errors import Estimate, shares
from curvlang.evaluation.fidelity import Fidelity, Setting
from curvlang.evaluation.judge import Judgement
from curvlang.evaluation.result import Point, Step
from curvlang.language import default_inverse
from curvlang.language.chain import InverseUse, Part
from curvlang.operators import BlockDiagonal, MatrixFree, Operator, Scaled, Stacked, Sum
from curvlang.runtime.fit import FittedStage


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """All rows under one inverse.

    Args:
        use: The inverse; None for the default one.
        settings: Its settings.
        cells: What was measured, `[rows][settings]`, the baselines last.
        judgement: The LDS; None without one.
        shared: The setting at which rows are compared.
    """

    use: InverseUse | None
    settings: tuple[Setting, ...]
    cells: list[list[Fidelity]]
    judgement: Judgement | None
    shared: int

    @staticmethod
    def without_inverse(rows: int) -> Column:
        """One setting at which nothing is measured: forward errors stand alone."""
        return Column(None, (Setting(default_inverse()),), [[Fidelity()]] * rows, None, 0)


def steps_of(
    stages: Sequence[FittedStage], column: Column, forwards: Sequence[Estimate | None], path: int
) -> Iterator[Step]:
    """Rows of the curvatures; the first `path` of them are steps of one path and have shares."""
    forward_shares = _path_shares([value_of(x) for x in forwards], path)
    columns = [_points(column, k, len(stages), path) for k in range(len(column.settings))]
    for k, (stage, forward) in enumerate(zip(stages, forwards, strict=True)):
        points = tuple(points[k] for points in columns)
        scored = [(p.lds.estimate, at) for at, p in enumerate(points) if p.lds is not None]
        yield Step(
            label=stage.label,
            stage=stage.stage,
            structure=_common_structure(stage.operator),
            structures=dict(stage.structures),
            memory=stage.operator.memory(),
            passes=stage.passes,
            forward=value_of(forward),
            forward_standard_error=None if forward is None else forward.error,
            forward_probes=None if forward is None else forward.probes,
            forward_share=forward_shares[k],
            points=points,
            best=max(scored)[1] if scored else None,
            shared=column.shared,
            note=_unformed(stage, value_of(forward)),
        )


def baseline_steps(parts: Sequence[Part], column: Column) -> Iterator[Step]:
    """A row for each baseline, the last rows of the column: its LDS alone."""
    judgement = column.judgement
    if judgement is None:
        return
    for k, part in enumerate(parts, len(column.cells) - len(parts)):
        notes = [
            "; ".join(x for x in (cell.note, constant) if x)
            for cell, constant in zip(column.cells[k], judgement.constant[k], strict=True)
        ]
        points = tuple(
            Point(x.damping, lds=judgement.intervals[k][at], note=notes[at])
            for at, x in enumerate(column.settings)
        )
        scored = [x.lds.estimate if x.lds is not None else -math.inf for x in points]
        best = scored.index(max(scored))
        yield Step(
            part.name, part.name, "baseline", {}, 0, 0, None, None, points, best, column.shared
        )


def value_of(estimate: Estimate | None) -> float | None:
    """The number alone."""
    return None if estimate is None else estimate.value


def _path_shares(values: list[float | None], path: int) -> list[float | None]:
    """Shares of the path's steps; what stands on no path has none."""
    return [*shares(values[:path]), *[None] * len(values[path:])]


def _unformed(stage: FittedStage, forward: float | None) -> str:
    """Why a stage has no forward error."""
    if forward is not None:
        return ""
    if stage.operator.spectrum_known:
        return "no forward error: the reference is known by products alone, and they take too long"
    return (
        f"no forward error: known by products alone ({stage.operator.size} rows are not formed), "
        "and they take too long"
    )


def _points(column: Column, at: int, rows: int, path: int) -> list[Point]:
    """One setting's points down the rows, with shares of what the path adds in all."""
    cells = [row[at] for row in column.cells[:rows]]
    judged = column.judgement
    lds = [None if judged is None else judged.intervals[k][at] for k in range(rows)]
    constant = ["" if judged is None else judged.constant[k][at] for k in range(rows)]
    inverse = _path_shares([value_of(m.inverse) for m in cells], path)
    influence = _path_shares([m.influence for m in cells], path)
    lds_shares = _path_shares([None if x is None else x.estimate for x in lds], path)
    return [
        Point(
            column.settings[at].damping,
            value_of(m.inverse),
            inverse[k],
            m.influence,
            influence[k],
            m.cosine,
            lds[k],
            lds_shares[k],
            "; ".join(x for x in (m.note, constant[k]) if x),
            m.solve,
            None if m.inverse is None else m.inverse.error,
            None if m.inverse is None else m.inverse.probes,
        )
        for k, m in enumerate(cells)
    ]


def _common_structure(operator: Operator) -> str:
    """The structure's word, of its blocks where there are any."""
    if isinstance(operator, BlockDiagonal):
        words = dict.fromkeys(_noun(part) for part in operator.parts)
        return " / ".join(words) + " blocks" if len(words) > 1 else f"{next(iter(words))} blocks"
    return _noun(operator)


def _noun(operator: Operator) -> str:
    """The structure's noun, of a sum those of its terms."""
    match operator:
        case Sum(terms=terms):
            return " + ".join(map(_noun, terms))
        case MatrixFree():
            return "by products"
        case Scaled(operator=inner) | Stacked(stack=inner):
            return _noun(inner)
        case _:
            return operator.structure
