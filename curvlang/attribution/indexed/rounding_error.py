"""How much scores change where an index keeps its numbers in fewer bytes, measured on a few examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Point, Points
from curvlang.attribution.indexed.contents import EXACT, KeptChunks
from curvlang.attribution.indexed.projections import projection_of
from curvlang.attribution.indexed.sources import Source
from curvlang.attribution.inverses import inverted
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.attribution.streams.request import Request
from curvlang.language.chain import ScoreFormula
from curvlang.models.task import Task
from curvlang.runtime.fitted import FittedOperator

PROBED = 32
ASKED = 8
"""Training examples and queries that an error is measured on."""


@dataclass(frozen=True, slots=True, eq=False)
class _Few:
    """What is kept of the first training examples."""

    cut: ScoreCut
    sums: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]

    def chunk(self, within: range) -> Mapping[str, Tensor]:
        """All of them."""
        return self.tensors


def error_of_scores(
    source: Source, kept: KeptChunks, op: FittedOperator, formula: ScoreFormula, task: Task
) -> float:
    """The largest difference of scores of a few queries and examples, of the largest of these scores.

    Sums over all training examples are the same on both sides.

    Args:
        source: What is kept.
        kept: It, in its files.
        op: The curvature.
        formula: The score.
        task: Queries and training examples.
    """
    exact = kept.file(EXACT)
    name, axis = next(iter(source.axes.items()))
    count = exact[name].shape[axis]
    rounded = {
        k: x.narrow(source.axes[k], 0, count) for k, x in kept.chunk(kept.cut.chunk(0)).items()
    }
    few = task.queries(slice(0, min(ASKED, task.Q)))
    points = _points(source, op, few)
    one, other = (
        _scores(replace(points, kept=_Few(ScoreCut(count, count), kept.sums, x)), formula)
        for x in ({k: x.to(task.device) for k, x in exact.items()}, rounded)
    )
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-300))


def _points(source: Source, op: FittedOperator, few: Task) -> Points:
    if source.points is not None:
        return source.points.queries(slice(0, few.Q))
    inverse = inverted(op, few).operator
    # An inverse that is not zero outside the coordinates is none that scores are taken with.
    found = projection_of(inverse, few) or projection_of(op.operator, few)
    assert found is not None
    return Points(Point(few, found.inverse, coordinates=found))


def _scores(points: Points, formula: ScoreFormula) -> Tensor:
    task = points.final.task
    stream = FormulaStream(program_of(formula), points, task.loss, Request())
    assert points.kept is not None
    return stream.evaluation(0).scores(points.kept.cut.chunk(0))
