"""Rows of a result: what each stage is, its errors, its LDS, and its share of the path's total."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curvlang.evaluation.errors import Estimate, shares
from curvlang.evaluation.fidelity import Fidelity, Setting
from curvlang.evaluation.judge import Judged
from curvlang.evaluation.result import Point, Step
from curvlang.operators import BlockDiagonal, Operator, Scaled, Stacked, Sum
from curvlang.runtime.fit import FittedStage


def steps_of(
    stages: Sequence[FittedStage],
    chosen: Sequence[Setting],
    measured: list[list[Fidelity]],
    forwards: list[Estimate | None],
    judged: Judged | None,
    shared: int,
    path: int,
) -> Iterator[Step]:
    """Rows of the result; the first `path` stages are steps of one path and have shares."""
    forward_shares = _path_shares([_value(x) for x in forwards], path)
    columns = [_points(measured, judged, k, s, path) for k, s in enumerate(chosen)]
    for k, stage in enumerate(stages):
        points = tuple(column[k] for column in columns)
        scored = [(p.lds.estimate, at) for at, p in enumerate(points) if p.lds is not None]
        yield Step(
            label=stage.label,
            stage=stage.stage,
            structure=_common_structure(stage.operator),
            structures=dict(stage.structures),
            memory=stage.operator.memory(),
            passes=stage.passes,
            forward=_value(forwards[k]),
            forward_share=forward_shares[k],
            points=points,
            best=max(scored)[1] if scored else None,
            shared=shared,
            note=_unformed(stage, _value(forwards[k])),
        )


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _path_shares(values: list[float | None], path: int) -> list[float | None]:
    """Shares of the path's steps; what stands on no path has none."""
    return [*shares(values[:path]), *[None] * len(values[path:])]


def _unformed(stage: FittedStage, forward: float | None) -> str:
    """Why a stage has no forward error."""
    if forward is not None:
        return ""
    if stage.operator.spectrum_known:
        return "no forward error: the reference is known by products alone"
    return f"no forward error: known by products alone ({stage.operator.size} rows are not formed)"


def _points(
    measured: list[list[Fidelity]], judged: Judged | None, k: int, setting: Setting, path: int
) -> list[Point]:
    """One setting's points down the chain, with shares of what the chain adds in all."""
    column = [row[k] for row in measured]
    inverse = _path_shares([_value(m.inverse) for m in column], path)
    influence = _path_shares([m.influence for m in column], path)
    lds = [None if judged is None else judged.intervals[j][k] for j in range(len(column))]
    lds_shares = _path_shares([None if x is None else x.estimate for x in lds], path)
    constant = ["" if judged is None else judged.constant[j][k] for j in range(len(column))]
    return [
        Point(
            setting.damping,
            _value(m.inverse),
            inverse[j],
            m.influence,
            influence[j],
            m.cosine,
            lds[j],
            lds_shares[j],
            "; ".join(x for x in (m.note, constant[j]) if x),
            m.solve,
        )
        for j, m in enumerate(column)
    ]


def _common_structure(operator: Operator) -> str:
    """The structure's word: that of the blocks where there are any."""
    if isinstance(operator, BlockDiagonal):
        words = dict.fromkeys(_noun(part) for part in operator.parts)
        return " / ".join(words) + " blocks" if len(words) > 1 else f"{next(iter(words))} blocks"
    return _noun(operator)


def _noun(operator: Operator) -> str:
    """The structure's noun, of a sum those of its terms."""
    match operator:
        case Sum(terms=terms):
            return " + ".join(map(_noun, terms))
        case Scaled(operator=inner) | Stacked(stack=inner):
            return _noun(inner)
        case _:
            return operator.structure
