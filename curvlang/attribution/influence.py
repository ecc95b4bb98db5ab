"""Scores of queries against training examples, and of examples on themselves."""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    Score,
    check_formula,
    formula_of,
    formula_points,
    formula_scores,
    program_of,
)
from curvlang.attribution.groups import Groups, check_reduce
from curvlang.attribution.indexed.gradient_index import GradientIndex, check_kept
from curvlang.attribution.inverses import inverted, seen_by
from curvlang.attribution.scorer import scored_by, self_scores
from curvlang.attribution.streams.by_token import TokenScoring
from curvlang.attribution.streams.request import Request, check_share
from curvlang.attribution.streams.token_scores import TokenScores
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.values import another_type, finite_number
from curvlang.language.chain import ScoreFormula
from curvlang.models.execution.precision import PrecisionLike, agreed, narrow_matrices
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.metric import Metric, query_metric_on
from curvlang.models.task import Task
from curvlang.models.task_products import products_of_passes
from curvlang.operators import Operator
from curvlang.operators.spectrum import decomposed_in
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.memory import Memory, limited
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import ProgressOption


class Options(TypedDict, total=False):
    """Options of `influence`; what they mean stands there."""

    metric: str | Metric
    damping: float | None
    inverse: str | None
    solve: str | None
    per_position: bool
    groups: Groups | None
    reduce: str
    chunk: int
    products: torch.dtype | None
    precision: PrecisionLike | None
    compress: float | None
    memory: Memory
    progress: ProgressOption
    score: Score


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: Literal[False] = False,
    per_token: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: Literal[True],
    per_token: Literal[False] = False,
    **options: Unpack[Options],
) -> dict[str, Tensor]: ...


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: Literal[False] = False,
    per_token: Literal[True],
    **options: Unpack[Options],
) -> TokenScores: ...


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: bool,
    per_token: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor | dict[str, Tensor]: ...


@settled
@validated
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    metric: str | Metric = "loss",
    damping: float | None = None,
    inverse: str | None = None,
    solve: str | None = None,
    per_layer: bool = False,
    per_position: bool = False,
    per_token: bool = False,
    groups: Groups | None = None,
    reduce: str = "sum",
    chunk: int = 4096,
    products: torch.dtype | None = None,
    precision: PrecisionLike | None = None,
    compress: float | None = None,
    memory: Memory = None,
    progress: ProgressOption = True,
    score: Score = None,
) -> Tensor | dict[str, Tensor] | TokenScores:
    """Influence scores `[Q, N]`: `∇m_qᵀ C⁻¹ ∇ℓ_n`, positive where training on n improves query q.

    With `score` the numbers of another formula: `relatif`, or one that a spec states.

    Args:
        operator: A fitted curvature; one with an index (`cv.load_index`) has what it needs of the training
            examples, and no gradient of them is taken.
        task: Queries and training examples.
        metric: The metric of the queries: `loss`, `margin`, `logit`, or a `Metric`. Where a
            metric is better when higher, m is its negative, so that the sign says the same.
        damping: λ of `(C + λI)⁻¹`; the spec's inverse where not given.
        inverse: An inverse as a spec writes it, `pseudo(rtol = 1e-4)`.
        solve: A solver as a spec writes it, `cg(preconditioner = diagonal)`; the spec's where not
            given. It is used for matrices without structure.
        per_layer: Scores of each block instead, by name; they add up to the total.
        per_position: Scores `[Q, N, T]` of the parts of n's loss that its T output positions
            carry; they add up to the total over the last axis.
        per_token: The same without padding, one example behind the other: `TokenScores`, with scores
            `[Q, tokens]` and the place where every example's begin. A tangent of the model for every
            query: nothing of the size of parameters times positions is formed.
        groups: The queries of each group, as lists of indices or as a label for every query; the
            first axis is then the groups, in the order of their labels.
        reduce: `sum` or `mean` over the queries of a group.
        chunk: Queries preconditioned at once.
        products: Precision of the factors in the products of queries with training examples,
            `torch.bfloat16` where the processor is faster in it. A `ReducedPrecision` warning
            says what it changes, measured on a few examples.
        precision: What the passes over the data and the products are computed in, `"bfloat16"` or
            `"passes=float32,products=bfloat16"`; the task's own where not given.
        compress: Share of every preconditioned query that may be left out for a lower rank,
            `1e-3`. A `CompressedQueries` warning says by how much scores may be off at most.
        memory: What preconditioned queries and scores may hold, `"2 GiB"` or bytes: queries that do
            not fit take turns, and the training examples are read in each.
        progress: Shown on standard error; `False` for nothing, or a function that is called with the
            number of training examples scored so far.
        score: A score as a spec writes it, `relatif`, or `spec.scores["mine"]`; the one that the
            curvature's spec evaluates it by where not given, `influence` for plain influence. Scores are
            `[N]` where the formula is of training examples alone.

    Raises:
        SpecError: E0240 and E0426 for an unknown score, and for an option that it does not have; E0590 to E0592 for a metric, groups or positions that the task does not have,
            E0594 for `products` and `compress` where there are no blocks, E0863 and E0864 for tokens,
            E0875 to E0878 for a precision that cannot be had.
    """
    task = seen_by(operator, task)
    _check_options(groups, reduce, products, compress)
    if precision is not None:
        task = task.to(precision=agreed(precision, None, products))
    if products is None and task.policy is not None:
        products = task.policy.apart
    formula = formula_of(operator, score)
    with (
        shown(progress, "cv.influence") as told,
        decomposed_in(narrow_matrices(task.policy)),
        products_of_passes(task),
    ):
        request = Request(
            per_layer, per_position, per_token, groups, reduce, chunk, products, compress, told
        )
        if isinstance(operator, GradientIndex):
            check_kept(request)
        if formula is not None:
            asked = InverseRequest(damping, inverse, solve, told)
            with limited(memory):
                return _by_formula(formula, operator, task, asked, metric, request)
        ready = inverted(
            operator, task, damping=damping, inverse=inverse, solve=solve, progress=told
        )
        cost = query_metric_on(metric, task).cost
        with limited(memory):
            scores = task.retried(lambda: scored_by(ready.operator, task, cost, request))
    if per_token and isinstance(scores, Tensor):
        return TokenScores(scores, TokenScoring(task).tokens.offsets)
    return scores


def _by_formula(
    formula: ScoreFormula,
    operator: FittedOperator | Operator,
    task: Task,
    inverse: InverseRequest,
    metric: str | Metric,
    request: Request,
) -> Tensor:
    check_formula(formula, request)
    cost = query_metric_on(metric, task).cost
    points = formula_points(formula, operator, task, inverse)
    program = program_of(formula)
    return task.retried(lambda: formula_scores(program, points, cost, request))


def _check_options(
    groups: Groups | None, reduce: str, products: torch.dtype | None, compress: float | None
) -> None:
    """Refuse what would be ignored, or is not a precision or a share.

    Raises:
        SpecError: E0563, E0591, E0594.
    """
    check_reduce(None if groups is None else "label", reduce, option="groups")
    if products is not None and not (
        isinstance(products, torch.dtype) and products.is_floating_point
    ):
        raise another_type("products", products, "a precision", "`products=torch.bfloat16`")
    if compress is not None:
        check_share(finite_number(compress, "compress"))


@settled
@validated
def self_influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    part: str = "train",
    damping: float | None = None,
    inverse: str | None = None,
    solve: str | None = None,
    precision: PrecisionLike | None = None,
    progress: ProgressOption = True,
) -> Tensor:
    """`∇ℓ_nᵀ C⁻¹ ∇ℓ_n` of every example, `[N]`: how far an example's loss rests on itself alone.

    The diagonal of the scores of a part against itself, without the rest of them. Other arguments
    as for `influence`.

    Args:
        operator: A fitted curvature.
        task: Its training examples, or its queries.
        part: `train` or `query`.
        damping: λ.
        inverse: An inverse as a spec writes it.
        solve: A solver as a spec writes it.
        precision: As for `influence`.
        progress: As for `influence`.

    Raises:
        SpecError: E0595 for an option that has no meaning here; else as for `influence`.
    """
    task = seen_by(operator, task)
    if precision is not None:
        task = task.to(precision=precision)
    with (
        shown(progress, "cv.self_influence") as told,
        decomposed_in(narrow_matrices(task.policy)),
        products_of_passes(task),
    ):
        ready = inverted(
            operator, task, damping=damping, inverse=inverse, solve=solve, progress=told
        ).operator
        return task.retried(lambda: self_scores(ready, task, part, told))
