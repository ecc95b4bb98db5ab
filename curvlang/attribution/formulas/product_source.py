"""Products of gradients and of solved gradients, from what layers show: no gradient over all parameters is formed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.factored import (
    Blocks,
    Preconditioner,
    TrainingProducts,
    block_queries,
    block_self_scores,
    whole_queries,
)
from curvlang.attribution.formulas.inverse_powers import inverse_power
from curvlang.attribution.formulas.points import Place, Point, Points, contexts
from curvlang.attribution.formulas.rows import query_rows, solved, training_rows
from curvlang.attribution.gradients import product
from curvlang.ir import expr as ir
from curvlang.ir.score_program import Product, asks_by_rows, gradient_of
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """The queries of a turn, and what they are scored by.

    Args:
        points: With these queries.
        cost: Their metric, lower is better.
        weights: [G, Q] of the queries in every group; None for the queries themselves.
    """

    points: Points
    cost: Loss
    weights: Tensor | None


class PairProducts:
    """Products of queries with training examples: those at one point share a pass over what its layers show.

    Args:
        products: All of them, the queries on the left.
        queries: Of a turn.
        rows: Gives rows of queries [Q, P] that are more than gradients.
    """

    def __init__(
        self,
        products: Sequence[Product],
        queries: Queries,
        rows: Callable[[Product, Place], Tensor],
    ) -> None:
        self._asked: dict[tuple[str, Place], tuple[int, int]] = {}
        self._sources: list[TrainingProducts] = []
        groups: dict[int, list[tuple[tuple[str, Place], Preconditioner]]] = {}
        tasks: dict[int, Task] = {}
        for one in products:
            for place in queries.points.places(contexts(one.indices)):
                ask, point = _asked(one, place, queries, rows)
                tasks[id(point.task)] = point.task
                groups.setdefault(id(point.task), []).append(((one.name, place), ask))
        for key, own in groups.items():
            for number, (name, _) in enumerate(own):
                self._asked[name] = len(self._sources), number
            self._sources.append(TrainingProducts(tasks[key], [ask for _, ask in own]))

    def over(self, within: range) -> dict[tuple[str, Place], Tensor]:
        """Every product [Q, B] with some training examples."""
        found = [source.over(within) for source in self._sources]
        return {name: found[k][number][""] for name, (k, number) in self._asked.items()}


def _asked(
    one: Product, place: Place, queries: Queries, rows_of: Callable[[Product, Place], Tensor]
) -> tuple[Preconditioner, Point]:
    """The queries of a product, with the inverse applied as often as it says, and the point of the examples."""
    points, given = queries.points, dict(zip(contexts(one.indices), place, strict=True))
    assert one.right is not None
    if asks_by_rows(one):
        meeting, solves = _side(one.right, points, given)
        inverse = inverse_power(meeting.inverse, solves)
        moved = product(inverse, rows_of(one, place))
        return whole_queries(inverse, moved, meeting.task), meeting
    sides = [_side(row, points, given) for row in (one.left, one.right)]
    (asking, first), (meeting, second) = sides
    inverse = inverse_power(asking.inverse if first else meeting.inverse, first + second)
    blocks = scored_blocks(inverse, meeting.task)
    if blocks is None:
        rows = query_rows(asking, queries.cost, queries.weights)
        moved = product(inverse, rows)
        return whole_queries(inverse, moved, meeting.task), meeting
    return (
        Preconditioner(blocks, block_queries(asking.task, queries.cost, blocks, queries.weights)),
        meeting,
    )


def _side(row: ir.Expr, points: Points, given: Mapping[ir.Index, int]) -> tuple[Point, int]:
    """Where gradients are taken, and how often they are solved."""
    own = gradient_of(row)
    assert own is not None
    assert isinstance(row, ir.Ref)
    indices = contexts(row.indices)
    return points.at(indices, tuple(given[x] for x in indices)), own[1]


class OwnProducts:
    """Products of examples with themselves; what the inverse is there is found once for each point."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int, int], Blocks | None] = {}

    def of_training(self, point: Point, count: int, within: range) -> Tensor:
        """`∇ℓ_nᵀ (C⁻¹)^count ∇ℓ_n` of some training examples, [B]."""
        blocks = self._known(point, count)
        if blocks is not None:
            return block_self_scores(point.task, blocks, "train", within)
        rows = training_rows(point, within)
        return (rows * solved(point, rows, count)).sum(-1)

    def of_queries(self, point: Point, count: int, queries: Queries) -> Tensor:
        """`∇m_qᵀ (C⁻¹)^count ∇m_q` of the queries or groups of a turn, [Q]."""
        blocks = None if queries.weights is not None else self._known(point, count)
        if blocks is not None:
            every = range(point.task.Q)
            return block_self_scores(point.task, blocks, "query", every, queries.cost)
        rows = query_rows(point, queries.cost, queries.weights)
        return (rows * solved(point, rows, count)).sum(-1)

    def _known(self, point: Point, count: int) -> Blocks | None:
        key = id(point.task), id(point.inverse), count
        if key not in self._blocks:
            inverse = inverse_power(point.inverse, count)
            self._blocks[key] = scored_blocks(inverse, point.task)
        return self._blocks[key]


def between_queries(point: Point, count: int, queries: Queries) -> Tensor:
    """`∇m_qᵀ (C⁻¹)^count ∇m_q'` of every two queries, [Q, Q]."""
    rows = query_rows(point, queries.cost, queries.weights)
    return solved(point, rows, count) @ rows.T
