"""Scores of queries against training examples, streamed: no `[N, P]` matrix is ever formed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from curvlang.attribution.compressed import compressed, score_bound
from curvlang.attribution.factored import (
    PROBED,
    Scored,
    Told,
    block_queries,
    block_scores,
    block_self_scores,
    product_error,
    queries_at_once,
    scored_blocks,
    whole_queries,
)
from curvlang.attribution.finite_scores import check_scores
from curvlang.attribution.gradients import batch_size, gradient_batches, gradients
from curvlang.attribution.groups import Groups, group_matrix, group_members
from curvlang.attribution.score_orders import Queries
from curvlang.attribution.scores import product, scores
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.language import inverse_text, solver_text
from curvlang.language.checking.inverses import shift
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.metric import Metric, query_metric_on
from curvlang.models.task import Task, check_task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.models.tracing.per_position import position_count, position_gradients
from curvlang.operators import BlockDiagonal, Operator
from curvlang.runtime.combine import fit_solver
from curvlang.runtime.fit import Progress
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.memory import Memory, limited, require


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
    compress: float | None
    memory: Memory
    progress: Progress | None


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: Literal[True],
    **options: Unpack[Options],
) -> dict[str, Tensor]: ...


@overload
def influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    per_layer: bool,
    **options: Unpack[Options],
) -> Tensor | dict[str, Tensor]: ...


@settled
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
    groups: Groups | None = None,
    reduce: str = "sum",
    chunk: int = 4096,
    products: torch.dtype | None = None,
    compress: float | None = None,
    memory: Memory = None,
    progress: Progress | None = None,
) -> Tensor | dict[str, Tensor]:
    """Influence scores `[Q, N]`: `∇m_qᵀ C⁻¹ ∇ℓ_n`, positive where training on n improves query q.

    Args:
        operator: A fitted curvature.
        task: Queries and training examples.
        metric: What is asked of the queries: `loss`, `margin`, `logit`, or a `Metric`. Where a
            metric is better when higher, m is its negative, so that the sign says the same.
        damping: λ of `(C + λI)⁻¹`; the spec's inverse where not given.
        inverse: An inverse as a spec writes it, `pseudo(rtol = 1e-4)`.
        solve: A solver as a spec writes it, `cg(preconditioner = diagonal)`; the spec's where not
            given. It is used for matrices without structure.
        per_layer: Scores of each block instead, by name; they add up to the total.
        per_position: Scores `[Q, N, T]` of the parts of n's loss that its T output positions
            carry; they add up to the total over the last axis.
        groups: The queries of each group, as lists of indices or as a label for every query; the
            first axis is then the groups, in the order of their labels.
        reduce: `sum` or `mean` over the queries of a group.
        chunk: Queries preconditioned at once.
        products: Precision of the factors in the products of queries with training examples,
            `torch.bfloat16` where the processor is faster in it. A `ReducedPrecision` warning
            says what it changes, measured on a few examples.
        compress: Share of every preconditioned query that may be left out for a lower rank,
            `1e-3`. A `CompressedQueries` warning says by how much scores may be off at most.
        memory: What preconditioned queries and scores may hold, `"2 GiB"` or bytes: queries that do
            not fit take turns, and the training examples are read in each.
        progress: Told how many training examples are scored.

    Raises:
        SpecError: E0590 to E0592 for a metric, groups or positions that the task does not have,
            E0594 for `products` and `compress` where there are no blocks.
    """
    task = seen_by(operator, task)
    ready = inverted(
        operator, task, damping=damping, inverse=inverse, solve=solve, progress=progress
    )
    asked = query_metric_on(metric, task)
    run = partial(
        scored_by,
        ready.operator,
        task,
        asked.cost,
        per_layer=per_layer,
        per_position=per_position,
        groups=groups,
        reduce=reduce,
        chunk=chunk,
        products=products,
        compress=compress,
        progress=progress,
    )
    with limited(memory):
        return task.retried(run)


class ReducedPrecision(UserWarning):
    """What products in a lower precision change."""


class CompressedQueries(UserWarning):
    """By how much scores of compressed queries may be off."""


def scored_by(
    inverse: Operator,
    task: Task,
    cost: Loss,
    *,
    per_layer: bool = False,
    per_position: bool = False,
    groups: Groups | None = None,
    reduce: str = "sum",
    chunk: int = 4096,
    products: torch.dtype | None = None,
    compress: float | None = None,
    progress: Progress | None = None,
) -> Tensor | dict[str, Tensor]:
    """Scores by an inverse that is known; other arguments as for `influence`.

    Args:
        inverse: C⁻¹.
        task: Queries and training examples.
        cost: What is asked of the queries.
        per_layer: Scores of each block.
        per_position: Scores by output position.
        groups: The queries of each group.
        reduce: `sum` or `mean`.
        chunk: Queries preconditioned at once.
        products: Precision of the large products.
        compress: Share of every query that may be left out.
        progress: Told how many training examples are scored.
    """
    given = None if per_position else scored_blocks(inverse, task)
    rows = task.Q if groups is None else len(group_members(groups, task.Q))
    parts = {} if given is not None else _parts(inverse, per_layer)
    layers = sum(x.layer.count for x in given or ()) if per_layer else 1
    T = position_count(task) if per_position else 1
    _require(task, rows, layers * task.N * T, gradients=given is None)
    if given is not None:
        weights = None
        if groups is not None:
            weights = group_matrix(groups, reduce, task.Q).to(
                device=task.device, dtype=task.precision
            )
        at_once = rows if groups is not None else min(rows, queries_at_once(task, given))
        told = _counter(progress, task.N * -(-rows // at_once))
        X, y = task.query
        turns = []
        for start in range(0, rows, at_once):
            own = slice(start, start + at_once)
            some = task if at_once == rows else task.replaced(query=(X[own], y[own]))
            queries = block_queries(some, cost, given, weights, ranked=compress is None)
            if compress is not None:
                queries = _compressed(some, given, queries, compress)
            turns.append(_by_blocks(some, given, queries, products, told, per_layer))
        found = turns[0]
        if len(turns) > 1:
            found = {name: torch.cat([turn[name] for turn in turns]) for name in found}
        check_scores(found.values(), task, cost)
        return found if per_layer else found[""]
    if products is not None:
        raise _without_blocks("products", "products in another precision", per_position)
    if compress is not None:
        raise _without_blocks("compress", "queries of low rank", per_position)
    query = _query_gradients(task, cost, groups, reduce).to(inverse.dtype)
    moved = {
        name: torch.cat(
            [product(block, query[k : k + chunk, index]) for k in range(0, len(query), chunk)]
        )
        for name, (block, index) in parts.items()
    }
    del query
    if per_layer or per_position:
        found = _against_training(task, moved, parts, per_position, progress)
    else:
        given, ready = whole_queries(inverse, moved.pop(""), task)
        found = block_scores(task, given, ready, _counter(progress, task.N), apart=False)
    check_scores(found.values(), task, cost)
    return found if per_layer else found[""]


def _require(task: Task, rows: int, each: int, *, gradients: bool) -> None:
    """Refuse scores that do not fit: `each` numbers for every row, and the rows' own gradients.

    Raises:
        MachineError: E0801, before anything is computed.
    """
    size = torch.empty((), dtype=torch.float64).element_size()
    held = 2 * task.P if gradients else 0
    require(
        size * rows * (each + held),
        task.device,
        f"scoring {rows} queries",
        ("score the queries in several tasks, or in groups (`groups = …`)",),
    )


@settled
def self_influence(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    part: str = "train",
    damping: float | None = None,
    inverse: str | None = None,
    solve: str | None = None,
    progress: Progress | None = None,
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
        progress: Told how many examples are scored.
    """
    task = seen_by(operator, task)
    ready = inverted(
        operator, task, damping=damping, inverse=inverse, solve=solve, progress=progress
    ).operator
    return task.retried(lambda: _self_scores(ready, task, part, progress))


def _self_scores(inverse: Operator, task: Task, part: str, progress: Progress | None) -> Tensor:
    total, done = len(task.part(part)[0]), 0
    given = scored_blocks(inverse, task)
    if given is not None:
        own = block_self_scores(task, given, part, _counter(progress, total))
        check_scores([own], task, parts=(part,))
        return own
    found = []
    for v in gradient_batches(task, task.loss, part):
        v = v.to(inverse.dtype)
        found.append((product(inverse, v) * v).sum(-1))
        done += len(v)
        if progress is not None:
            progress("scores", done, total)
    own = torch.cat(found)
    check_scores([own], task, parts=(part,))
    return own


def _by_blocks(
    task: Task,
    given: Sequence[Scored],
    queries: Mapping[str, Queries],
    products: torch.dtype | None,
    told: Told | None,
    per_layer: bool,
) -> dict[str, Tensor]:
    """Scores from inputs and output gradients, of every block or of all under no name."""
    if products is not None and products != task.precision:
        error = product_error(task, given, queries, products)
        name = str(products).removeprefix("torch.")
        warnings.warn(
            f"products in {name}: scores of {min(PROBED, task.N)} training examples differ by at "
            f"most {error:.1g} of the largest",
            ReducedPrecision,
            stacklevel=2,
        )
    return block_scores(task, given, queries, told, products, apart=per_layer)


def _compressed(
    task: Task, given: Sequence[Scored], queries: Mapping[str, Queries], share: float
) -> dict[str, Queries]:
    """Queries of low rank; a warning says what that may change."""
    if not 0 < share < 1:
        raise refusal(
            Code.E0594,
            f"`compress = {share:g}` is no share of a query",
            "give a number between 0 and 1, `1e-3`",
        )
    found = {name: compressed(u, share) for name, u in queries.items()}
    bound = float(score_bound(task, given, found).max())
    warnings.warn(
        f"queries of low rank: no score is off by more than {bound:.2g}",
        CompressedQueries,
        stacklevel=2,
    )
    return {name: x.queries for name, x in found.items()}


def _without_blocks(option: str, what: str, per_position: bool) -> SpecError:
    why = "by position" if per_position else "of a curvature without blocks by layer"
    return refusal(
        Code.E0594,
        f"scores {why} have no {what}",
        f"leave `{option}` out, or use a chain with `block_diagonal(by = layer)`",
    )


def _counter(progress: Progress | None, total: int) -> Told | None:
    """Adds up what is scored."""
    if progress is None:
        return None
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        progress("scores", done, total)

    return told


def seen_by(operator: FittedOperator | Operator, task: Task) -> Task:
    """The task with the parameters that a curvature is on; those that it ignores are constants.

    Raises:
        SpecError: E0563 for something else than a curvature or a task, E0759 where the curvature is on
            parameters that the task does not have.
    """
    check_task(task)
    if not isinstance(operator, FittedOperator | Operator):
        raise another_type("operator", operator, "a fitted curvature", "`cv.fit(spec, task)`")
    if isinstance(operator, FittedOperator) and operator.parameters != task.parameters:
        missing = [name for name in operator.parameters if name not in task.parameters]
        if missing:
            raise _of_another_model(f"the task has no parameter `{missing[0]}`")
        task = task.restricted(operator.parameters)
        if operator.parameters != task.parameters:
            raise _of_another_model("the task has the same parameters in another order")
    if operator.shape[0] != task.P:
        raise _of_another_model(
            f"it is of size {operator.shape[0]}, the task has P = {task.P} parameters"
        )
    return task


def _of_another_model(why: str) -> SpecError:
    return refusal(
        Code.E0759,
        f"the curvature was fitted on another model: {why}",
        "fit it on this task (`cv.fit(spec, task)`), or give the task of the model that it was "
        "fitted on",
    )


def inverted(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    damping: float | None = None,
    inverse: str | None = None,
    solve: str | None = None,
    progress: Progress | None = None,
) -> FittedOperator:
    """C⁻¹ under the spec's inverse and solver, or those given instead.

    Raises:
        SpecError: E0709 where both `damping` and `inverse` are given.
    """
    fitted = (
        operator
        if isinstance(operator, FittedOperator)
        else FittedOperator(operator, task.parameters)
    )
    if damping is not None and inverse is not None:
        raise refusal(Code.E0709, "both `damping` and `inverse` are given", "give one")
    if inverse is not None or solve is not None:
        rule = fitted.rule
        if inverse is not None:
            rule = inverse_text(inverse, "<inverse>", fitted.declared)
        solver = fitted.solver
        if solve is not None:
            solver = fit_solver(solver_text(solve, "<solve>"), task)
        elif rule is not None and rule is not fitted.rule and shift(rule.inverse) is None:
            # The spec's solver is for the spec's inverse: a linear system, which this is not.
            solver = None
        fitted = FittedOperator(
            fitted.operator,
            fitted.parameters,
            rule,
            fitted.label,
            solver,
            fitted.by_example,
            fitted.declared,
        )
    return fitted.inverse(damping, progress=progress)


def _query_gradients(task: Task, cost: Loss, groups: Groups | None, reduce: str) -> Tensor:
    """`[Q, P]`, or `[G, P]` added up over groups: a gradient is linear."""
    if groups is None:
        return gradients(task, "query", cost)
    weights = group_matrix(groups, reduce, task.Q).to(device=task.device, dtype=task.precision)
    total = torch.zeros(len(weights), task.P, dtype=task.precision, device=task.device)
    done = 0
    for v in gradient_batches(task, cost, "query"):
        total += weights[:, done : done + len(v)] @ v
        done += len(v)
    return total


def _parts(operator: Operator, per_layer: bool) -> dict[str, tuple[Operator, Tensor | slice]]:
    """Blocks by name with their places, or the whole under no name."""
    if not per_layer:
        return {"": (operator, slice(None))}
    if not isinstance(operator, BlockDiagonal):
        raise refusal(
            Code.E0710,
            "the curvature is one matrix, which has no scores per layer",
            "put `block_diagonal(by = layer)` into the chain",
        )
    named = zip(operator.names, operator.blocks, operator.index, strict=True)
    return {name: (block, index) for name, block, index in named}


def _against_training(
    task: Task,
    moved: dict[str, Tensor],
    parts: dict[str, tuple[Operator, Tensor | slice]],
    per_position: bool,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """Products of preconditioned queries with the gradients of every training example."""
    found: dict[str, list[Tensor]] = {name: [] for name in parts}
    done = 0
    for v in _training(task, per_position):
        for name, (_, index) in parts.items():
            u = moved[name]
            found[name].append(torch.tensordot(u, v[..., index].to(u.dtype), ([1], [v.ndim - 1])))
        done += len(v)
        if progress is not None:
            progress("scores", done, task.N)
    return {name: torch.cat(pieces, 1) for name, pieces in found.items()}


def _training(task: Task, per_position: bool) -> Iterator[Tensor]:
    """Gradients `[B, P]`, or `[B, T, P]` by output position."""
    if not per_position:
        yield from gradient_batches(task, task.loss, "train")
        return
    found: Sequence[LayerBlock] = task.blocks()
    T = position_count(task)
    for x, y in task.batches(batch_size(task, T)):
        yield position_gradients(task.model, task.loss, x, y, found)


__all__ = ["influence", "inverted", "scores", "self_influence"]
