"""What scores of a formula will cost: passes through the model at every point, and products over the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch

from curvlang.attribution.blocks import ScoredBlock, scored_blocks
from curvlang.attribution.formulas.evaluation import computed_by_products, of_pairs
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.inverse_powers import inverse_power
from curvlang.attribution.formulas.points import contexts
from curvlang.compiler.derive.program import Fisher
from curvlang.compiler.planning.cost import Cost, total
from curvlang.costs.predicted import (
    StagePrediction,
    model_seconds,
    predicted_scores,
    rotations,
    score_ranks,
)
from curvlang.costs.rates import Rates
from curvlang.ir.expr import Apply, Binary, Expr, Index
from curvlang.ir.indices import free_indices, walk
from curvlang.ir.score_program import (
    EXAMPLE,
    ExampleSum,
    Product,
    Solution,
    asks_by_rows,
    gradient_of,
    passes_of,
    reads_of,
)
from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, Operator

_READ = 3
"""Numbers read and written for each one of a row that a product reads: it is made, and it is read."""


def predicted_formula(stream: FormulaStream, rates: Rates) -> StagePrediction:
    """Scores of all queries of a stream against all its training examples.

    Args:
        stream: The scores, with the points that they are taken at.
        rates: The machine's.
    """
    by_products = computed_by_products(stream.program, stream.points)
    parts = list(_by_products(stream, rates) if by_products else _by_rows(stream, rates))
    if by_products:
        parts += _sums_and_solutions(stream, rates)
    repeated = stream.turns * (1 + len(passes_of(stream.program)))
    cost = total(x.cost for x in parts).times(repeated)
    batches = repeated * stream.cut.count
    return StagePrediction("scores", cost, repeated * sum(x.seconds or 0 for x in parts), batches)


def _by_products(stream: FormulaStream, rates: Rates) -> Iterator[StagePrediction]:
    """Pairs at one point share a pass; products of examples with themselves have their own."""
    program, task = stream.program, stream.task
    passed: set[tuple[str, ...]] = set()
    for one in program.products:
        places = len(list(stream.points.places(contexts(one.indices))))
        given = _blocks(one, stream)
        if not of_pairs(one):
            examples = task.N if _of(one, EXAMPLE) else task.Q
            yield _of_own(given, task, examples, rates).times(places)
            continue
        at = tuple(x.space for x in contexts(one.indices))
        yield _of_pairs(
            given, task, rates, passes=at not in passed, by_rows=asks_by_rows(one)
        ).times(places)
        passed.add(at)


@dataclass(frozen=True, slots=True)
class _Part:
    """Operations, bytes and seconds."""

    cost: Cost
    seconds: float

    def times(self, count: float) -> StagePrediction:
        """So many times."""
        return StagePrediction("scores", self.cost.times(count), count * self.seconds)


def _blocks(one: Product, stream: FormulaStream) -> tuple[ScoredBlock, ...] | None:
    """The blocks of the inverse as often as a product applies it."""
    sides = [gradient_of(x) for x in (one.left, one.right) if x is not None]
    solves = sum(x[1] for x in sides if x is not None)
    return scored_blocks(inverse_power(stream.inverse, solves), stream.task)


def _of_pairs(
    given: tuple[ScoredBlock, ...] | None, task: Task, rates: Rates, *, passes: bool, by_rows: bool
) -> _Part:
    layers = task.blocks() if given is None else [x.layer for x in given]
    bases = rotations(given) if given is None or not by_rows else [False] * len(layers)
    ranks = None if by_rows else score_ranks(given, task)
    told = predicted_scores(bases, task, layers, rates, ranks)
    solved = task.Q * sum(map(_solving, given or ()))
    seconds = (told.seconds or 0.0) + rates.product(solved, torch.float64)
    if not passes:
        batch = -(-task.N // told.batches)
        seconds -= model_seconds(task, layers, Fisher(kind="empirical"), batch, task.N + task.Q)
    return _Part(told.cost, max(0.0, seconds))


def _of_own(
    given: tuple[ScoredBlock, ...] | None, task: Task, examples: int, rates: Rates
) -> _Part:
    """Lengths of gradients: they are brought into the basis, and weighed there."""
    layers = task.blocks() if given is None else [x.layer for x in given]
    operations = moved = 0.0
    exact = 2.0 * task.P**2 if given is None else sum(map(_solving, given))
    for k, layer in enumerate(layers):
        O, I, T = layer.d_out, layer.d_in, layer.positions
        turned = given is not None and (given[k].left is not None or given[k].right is not None)
        operations += 2.0 * layer.count * T * (O * I + (O * O + I * I if turned else 0))
        formed = given is None or not given[k].by_leaves
        moved += layer.count * (_READ * O * I if formed else O + I)
    size = torch.empty((), dtype=task.precision).element_size()
    cost = Cost(round(examples * operations), round(examples * moved * size))
    passed = model_seconds(task, layers, Fisher(kind="empirical"), min(examples, 1024), examples)
    seconds = rates.product(cost.flops, task.precision) + rates.make(cost.bytes)
    solved = Cost(round(examples * exact))
    return _Part(cost + solved, passed + seconds + rates.product(solved.flops, torch.float64))


def _solving(x: ScoredBlock) -> float:
    """Operations of a gradient that a block is applied to as it is, in its own precision."""
    return (
        0.0 if x.spectrum is not None else 2.0 * x.layer.count * (x.layer.d_out * x.layer.d_in) ** 2
    )


def _by_rows(stream: FormulaStream, rates: Rates) -> Iterator[StagePrediction]:
    """Gradients of a chunk are formed at every point, solved, and multiplied."""
    program, task = stream.program, stream.task
    kind = stream.inverse.dtype
    size = torch.empty((), dtype=kind).element_size()
    for name in sorted(reads_of(program)):
        leaf, _, solves = name.partition("@")
        if leaf not in program.leaves or leaf not in ("u", "v"):
            continue
        examples = task.N if leaf == "v" else task.Q
        places = len(list(stream.points.places(contexts(program.leaves[leaf]))))
        operations = 2.0 * examples * (task.P + int(solves or 0) * _applied(stream.inverse))
        cost = Cost(round(operations), round(_READ * size * examples * task.P))
        passed = model_seconds(
            task, task.blocks(), Fisher(kind="empirical"), stream.cut.size, examples
        )
        yield _Part(cost, passed + _seconds(cost, stream, rates)).times(places)
    for one in program.products:
        rows = max(_count((x,), stream) for x in one.indices)
        operations = 2 * _count(one.indices, stream) * task.P
        made = sum(_elementwise(side, stream) for side in one.reads)
        moved = _READ * size * (task.P * rows + made)
        yield _one(Cost(operations, moved), stream, rates)
    yield from _sums_and_solutions(stream, rates)


def _sums_and_solutions(stream: FormulaStream, rates: Rates) -> Iterator[StagePrediction]:
    """Sums over examples, and matrices applied to rows."""
    size = torch.empty((), dtype=stream.inverse.dtype).element_size()
    for one in stream.program.assignments.values():
        if isinstance(one, ExampleSum):
            operations = 2 * _count((*one.indices, *one.bound), stream) * len(one.terms)
            yield _one(Cost(operations, size * _count(one.indices, stream)), stream, rates)
        if isinstance(one, Solution):
            numbers = _count(one.indices, stream)
            operations = round(2.0 * numbers / stream.task.P * _applied(stream.inverse))
            yield _one(Cost(operations, _READ * size * numbers), stream, rates)


def _elementwise(row: Expr, stream: FormulaStream) -> int:
    """Numbers that arithmetic of rows makes."""
    return sum(_count(free_indices(x), stream) for x in walk(row) if isinstance(x, Binary | Apply))


def _one(cost: Cost, stream: FormulaStream, rates: Rates) -> StagePrediction:
    return StagePrediction("scores", cost, _seconds(cost, stream, rates))


def _seconds(cost: Cost, stream: FormulaStream, rates: Rates) -> float:
    """Cut into the chunks of the training examples."""
    count = stream.cut.count
    products = rates.product(cost.flops / count, stream.inverse.dtype)
    # Tensors of a chunk follow one another in memory that is there.
    return count * (products + rates.copy(cost.bytes / count) + rates.call)


def _count(indices: Iterable[Index], stream: FormulaStream) -> int:
    """How many numbers something with these indices has."""
    known = stream.lengths(stream.turn)
    return prod(known.get(x.space, 1) for x in indices)


def _applied(inverse: Operator) -> float:
    """Multiplications of one row with C⁻¹."""
    if isinstance(inverse, BlockDiagonal):
        return float(sum(part.size * max(part.size, 1) ** 0.5 * 4 for part in inverse.parts))
    return float(inverse.size)


def _of(one: Product, letter: str) -> bool:
    return any(x.space == letter for x in one.indices)
