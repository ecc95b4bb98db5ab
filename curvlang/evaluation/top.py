"""The training examples that help and harm a query most, with what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.models.packed import layout_in
from curvlang.models.task import Task

Inputs: TypeAlias = "Tensor | dict[str, Tensor]"


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """One training example beside a query.

    Args:
        index: Its place among the training examples.
        score: Its score.
        x: Its inputs, by name where the examples are dicts; None without a task.
        y: Its target; None without a task.
    """

    index: int
    score: float
    x: Inputs | None = None
    y: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Top:
    """The extremes of one query's scores.

    Args:
        query: Its place among the queries (or groups).
        helpful: Highest scores first; all of them above 0.
        harmful: Lowest scores first; all of them below 0.
        x: The query's inputs; None without a task, and for groups.
        y: Its target, likewise.
    """

    query: int
    helpful: tuple[Neighbour, ...]
    harmful: tuple[Neighbour, ...]
    x: Inputs | None = None
    y: Tensor | None = None


def top(
    scores: Tensor,
    k: int = 5,
    task: Task | None = None,
    *,
    queries: Sequence[int] | None = None,
    grouped: bool = False,
) -> list[Top]:
    """The k most helpful and the k most harmful training examples of every query.

    An example with score 0 is neither. Ties go to the earlier example.

    Args:
        scores: `[Q, N]`.
        k: How many of each kind at most.
        task: Gives the examples themselves.
        queries: Which queries; all where not given.
        grouped: Whether the first axis is groups of queries, which have no example of their own.

    Raises:
        SpecError: E0593 for scores of another shape, or a query that there is not.
    """
    if scores.ndim != 2 or k < 1:
        _refuse(f"scores of shape {list(scores.shape)} and k = {k}", "give scores [Q, N], k ≥ 1")
    chosen = range(len(scores)) if queries is None else queries
    outside = [q for q in chosen if not 0 <= q < len(scores)]
    if outside:
        _refuse(f"there is no query {outside[0]}", f"queries are numbered 0…{len(scores) - 1}")
    rows = len(scores) if grouped or task is None else task.Q
    if task is not None and tuple(scores.shape) != (rows, task.N):
        _refuse(
            f"scores of shape {list(scores.shape)} for {task.Q} queries and {task.N} examples",
            "give scores [Q, N] of this task, or `grouped=True`",
        )
    return [_of(q, scores[q], k, task, grouped) for q in chosen]


def largest(scores: Tensor, k: int = 5, task: Task | None = None) -> list[Neighbour]:
    """The k training examples with the largest self-influence, the largest first.

    Args:
        scores: `[N]`, of the training examples.
        k: How many at most.
        task: Gives the examples themselves.

    Raises:
        SpecError: E0593 for scores of another shape.
    """
    if scores.ndim != 1 or k < 1 or (task is not None and len(scores) != task.N):
        _refuse(f"self-influence of shape {list(scores.shape)} and k = {k}", "give [N], k ≥ 1")
    order = torch.argsort(scores, stable=True, descending=True).tolist()
    return [_neighbour(n, scores, task) for n in order[:k]]


def _of(q: int, row: Tensor, k: int, task: Task | None, grouped: bool) -> Top:
    order = torch.argsort(row, stable=True, descending=True).tolist()
    back = torch.argsort(row, stable=True).tolist()
    helpful = tuple(_neighbour(n, row, task) for n in order[:k] if row[n] > 0)
    harmful = tuple(_neighbour(n, row, task) for n in back[:k] if row[n] < 0)
    if task is None or grouped:
        return Top(q, helpful, harmful)
    return Top(q, helpful, harmful, _inputs(task, "query", q), task.query[1][q])


def _neighbour(n: int, row: Tensor, task: Task | None) -> Neighbour:
    if task is None:
        return Neighbour(n, float(row[n]))
    return Neighbour(n, float(row[n]), _inputs(task, "train", n), task.train[1][n])


def _inputs(task: Task, part: str, k: int) -> Inputs:
    """One example's inputs as they came: a tensor, or fields."""
    X = task.part(part)[0]
    layout = layout_in(task.model)
    if layout is None:
        return X[k]
    return {name: value[0] for name, value in layout.unpack(X[k : k + 1]).items()}


def _refuse(what: str, repair: str) -> None:
    raise SpecError(Diagnostic("E0593", what, help=(repair,)))
