"""The training examples that help and harm each query most, found without the matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    Score,
    formula_of,
    formula_points,
    with_queries,
)
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.inverses import inverted, seen_by
from curvlang.attribution.streams.request import Request
from curvlang.attribution.streams.running_top import RunningTop, streamed_top
from curvlang.attribution.streams.score_stream import ScoreStream
from curvlang.attribution.top import TopExamples, check_queries, top_from_extremes
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import whole_number
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.metric import Metric, query_metric_on
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.memory import Memory, limited
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import ProgressOption


@settled
@validated
def top_examples(
    operator: FittedOperator | Operator,
    task: Task,
    k: int = 5,
    *,
    queries: Sequence[int] | None = None,
    metric: str | Metric = "loss",
    damping: float | None = None,
    inverse: str | None = None,
    solve: str | None = None,
    memory: Memory = None,
    progress: ProgressOption = True,
    score: Score = None,
) -> TopExamples:
    """The k most helpful and the k most harmful training examples of every query.

    What `top` finds in scores, found while they go by: never more than a chunk of them is held. Ties go to
    the earlier example, whatever the batches and the number of processes; in several processes each
    has the result.

    Args:
        operator: A fitted curvature.
        task: Queries and training examples.
        k: How many of each kind at most.
        queries: Which queries; no others are scored.
        metric: As for `influence`.
        damping: Likewise.
        inverse: Likewise.
        solve: Likewise.
        memory: Likewise.
        progress: Likewise.
        score: Likewise; it has a number for every query.

    Raises:
        SpecError: E0593 for a query that there is not, or k below 1; E0430 for a score of training
            examples alone; else as `influence`.
    """
    k = whole_number(k, "k", "5")
    if k < 1:
        raise refusal(Code.E0593, f"k = {k} examples of each query", "give k ≥ 1")
    seen = seen_by(operator, task)
    chosen = list(range(task.Q)) if queries is None else [int(q) for q in queries]
    check_queries(chosen, task.Q)
    some = seen if queries is None else seen.queries(torch.tensor(chosen, dtype=torch.int64))
    formula = formula_of(operator, score)
    with shown(progress, "cv.top_examples") as told, limited(memory):
        cost = query_metric_on(metric, some).cost
        request = replace(Request(), progress=told)
        if formula is not None:
            asked = InverseRequest(damping, inverse, solve, told)
            points = formula_points(formula, operator, some, asked)
            program = with_queries(formula)
            found = some.retried(
                lambda: streamed_top(FormulaStream(program, points, cost, request), k)
            )
            return _of(found, chosen, task)
        ready = inverted(
            operator, some, damping=damping, inverse=inverse, solve=solve, progress=told
        ).operator
        found = some.retried(lambda: streamed_top(ScoreStream(ready, some, cost, request), k))
    return _of(found, chosen, task)


def _of(found: RunningTop, chosen: list[int], task: Task) -> TopExamples:
    largest, smallest = (found.table(largest=kind) for kind in (True, False))
    return top_from_extremes(chosen, largest, smallest, task)
