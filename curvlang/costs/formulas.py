"""What scores of a formula will cost: passes through the model at every point, and products over the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

import torch

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.formulas.evaluation import computed_by_products, of_pairs
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import contexts
from curvlang.compiler.derive.program import Fisher
from curvlang.compiler.planning.cost import Cost, total
from curvlang.costs.operations import Operations, operations
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
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import Operator

_READ = 3
"""Numbers read and written for each one of a row that a product reads: it is made, and it is read."""


@dataclass(frozen=True, slots=True)
class BlockForm:
    """What scores find of a block of C⁻¹.

    Args:
        layer: Its layer.
        rotated: Whether it has a basis that gradients are brought into.
        applied: What it takes to apply it to a gradient as it is; None where it is diagonal in its basis.
        rank: With which its spectrum is multiplied; None for one taken as it is.
    """

    layer: LayerBlock
    rotated: bool = False
    applied: Operations | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class InverseForm:
    """What scores find of C⁻¹.

    Args:
        blocks: Block by block; None where it is one matrix.
        whole: What it takes to apply it to a row over all parameters; None where that is not known before.
        dtype: Its precision.
    """

    blocks: tuple[BlockForm, ...] | None
    whole: Operations | None
    dtype: torch.dtype = torch.float64

    def power(self, count: int, task: Task) -> InverseForm:
        """C⁻¹ applied so many times; 0 for the identity."""
        if count == 0:
            return identity_form(task, self.dtype)
        blocks = self.blocks and tuple(
            replace(x, applied=x.applied and x.applied.times(count)) for x in self.blocks
        )
        return InverseForm(blocks, self.whole and self.whole.times(count), self.dtype)


def identity_form(task: Task, dtype: torch.dtype = torch.float64) -> InverseForm:
    """A multiple of the identity: its spectrum has the rank 1."""
    blocks = tuple(BlockForm(x, rank=1) for x in task.blocks())
    return InverseForm(blocks, Operations(task.P), dtype)


def form_of(inverse: Operator, task: Task, products: float | None = None) -> InverseForm:
    """The form of an inverse that is there.

    Args:
        inverse: C⁻¹.
        task: Queries and training examples.
        products: Those that conjugate gradients take for each vector, where it is known.
    """
    given = scored_blocks(inverse, task)
    whole = operations(inverse, products)
    if given is None:
        return InverseForm(None, whole, inverse.dtype)
    turned, ranks = rotations(given) or (), score_ranks(given, task) or ()
    blocks = []
    for x, rotated, rank in zip(given, turned, ranks, strict=True):
        applied = None if x.spectrum is not None else operations(x.operator, products)
        if x.spectrum is None and applied is None:
            return InverseForm(None, None, inverse.dtype)
        blocks.append(BlockForm(x.layer, rotated, applied, rank))
    return InverseForm(tuple(blocks), whole, inverse.dtype)


def predicted_formula(
    stream: FormulaStream, form: InverseForm, rates: Rates | None
) -> StagePrediction:
    """Scores of all queries of a stream against all its training examples.

    Args:
        stream: The scores, with the points that they are taken at.
        form: Of C⁻¹.
        rates: The machine's; None for costs alone.
    """
    by_products = computed_by_products(stream.program, stream.points)
    asked = _Scores(stream, form, rates)
    parts = list(_by_products(asked) if by_products else _by_rows(asked))
    if by_products:
        parts += _sums_and_solutions(asked)
    repeated = stream.turns * (1 + len(passes_of(stream.program)))
    cost = total(x.cost for x in parts).times(repeated)
    known = [x.seconds for x in parts if x.seconds is not None]
    seconds = repeated * sum(known) if len(known) == len(parts) else None
    return StagePrediction("scores", cost, seconds, repeated * stream.cut.count)


def predicted_influence(form: InverseForm, task: Task, rates: Rates | None) -> StagePrediction:
    """Plain influence of all training examples on all queries.

    Args:
        form: Of C⁻¹.
        task: Queries and training examples.
        rates: The machine's; None for costs alone.
    """
    found, batches = _of_pairs(form, task, rates, by_rows=False)
    return StagePrediction("scores", found.cost, found.seconds, batches)


@dataclass(frozen=True, slots=True)
class _Scores:
    """What is asked for.

    Args:
        stream: The scores.
        form: Of C⁻¹.
        rates: The machine's.
    """

    stream: FormulaStream
    form: InverseForm
    rates: Rates | None

    @property
    def task(self) -> Task:
        """Queries and training examples."""
        return self.stream.task

    def places(self, indices: Iterable[Index]) -> int:
        """Models and checkpoints that something with these indices is taken at."""
        return len(list(self.stream.points.places(contexts(tuple(indices)))))

    def count(self, indices: Iterable[Index]) -> int:
        """How many numbers something with these indices has."""
        known = self.stream.lengths(self.stream.turn)
        return prod(known.get(x.space, 1) for x in indices)


@dataclass(frozen=True, slots=True)
class _Part:
    """Operations, bytes and seconds; None where these cannot be predicted."""

    cost: Cost
    seconds: float | None

    def times(self, count: float) -> _Part:
        """So many times."""
        return _Part(self.cost.times(count), None if self.seconds is None else count * self.seconds)


def _by_products(asked: _Scores) -> Iterator[_Part]:
    """Pairs at one point share a pass; products of examples with themselves have their own."""
    passed: set[tuple[str, ...]] = set()
    for one in asked.stream.program.products:
        places = asked.places(one.indices)
        form = asked.form.power(_solves(one), asked.task)
        if not of_pairs(one):
            examples = asked.task.N if _of(one, EXAMPLE) else asked.task.Q
            yield _of_own(form, asked, examples).times(places)
            continue
        at = tuple(x.space for x in contexts(one.indices))
        part, batches = _of_pairs(form, asked.task, asked.rates, by_rows=asks_by_rows(one))
        if at in passed:
            part = _without_pass(part, batches, form, asked.task)
        yield part.times(places)
        passed.add(at)


def _solves(one: Product) -> int:
    """How often a product applies C⁻¹."""
    sides = [gradient_of(x) for x in (one.left, one.right) if x is not None]
    return sum(x[1] for x in sides if x is not None)


def _of_pairs(
    form: InverseForm, task: Task, rates: Rates | None, *, by_rows: bool
) -> tuple[_Part, int]:
    """Products of all queries with all training examples, and in how many batches."""
    known = form.blocks
    layers = task.blocks() if known is None else [x.layer for x in known]
    bases, ranks = [x.rotated for x in known or ()], [x.rank for x in known or ()]
    if known is None or by_rows:
        bases, ranks = [False] * len(layers), [None] * len(layers)
    told = predicted_scores(bases, task, layers, rates, ranks)
    applied = _applied(form)
    if applied is None:
        return _Part(told.cost, None), told.batches
    cost = told.cost + Cost(round(applied.flops(task.Q)))
    if rates is None or told.seconds is None:
        return _Part(cost, None), told.batches
    seconds = told.seconds + applied.seconds(task.Q, rates, form.dtype)
    return _Part(cost, seconds), told.batches


def _without_pass(part: _Part, batches: int, form: InverseForm, task: Task) -> _Part:
    """The same where the pass through the model is there already."""
    if part.seconds is None:
        return part
    layers = task.blocks() if form.blocks is None else [x.layer for x in form.blocks]
    passed = model_seconds(
        task, layers, Fisher(kind="empirical"), -(-task.N // batches), task.N + task.Q
    )
    return replace(part, seconds=max(0.0, part.seconds - passed))


def _applied(form: InverseForm) -> Operations | None:
    """What applying C⁻¹ to gradients as they are takes: where it is one matrix, or blocks of it are."""
    if form.blocks is None:
        return form.whole
    return sum((x.applied for x in form.blocks if x.applied is not None), Operations())


def _of_own(form: InverseForm, asked: _Scores, examples: int) -> _Part:
    """Lengths of gradients: they are brought into the basis, and weighed there."""
    task, rates = asked.task, asked.rates
    blocks = tuple(map(BlockForm, task.blocks())) if form.blocks is None else form.blocks
    numbers = moved = 0.0
    for x in blocks:
        O, I, T = x.layer.d_out, x.layer.d_in, x.layer.positions
        numbers += 2.0 * x.layer.count * T * (O * I + (O * O + I * I if x.rotated else 0))
        by_leaves = form.blocks is not None and x.applied is None and x.layer.positions == 1
        moved += x.layer.count * (O + I if by_leaves else _READ * O * I)
    cost = Cost(round(examples * numbers), round(examples * moved * task.precision.itemsize))
    applied = _applied(form)
    if applied is None:
        return _Part(cost, None)
    whole = cost + Cost(round(applied.flops(examples)))
    if rates is None:
        return _Part(whole, None)
    layers = [x.layer for x in blocks]
    passed = model_seconds(task, layers, Fisher(kind="empirical"), min(examples, 1024), examples)
    seconds = rates.product(cost.flops, task.precision) + rates.make(cost.bytes)
    return _Part(whole, passed + seconds + applied.seconds(examples, rates, form.dtype))


def _by_rows(asked: _Scores) -> Iterator[_Part]:
    """Gradients of a chunk are formed at every point, solved, and multiplied."""
    program, task, cut = asked.stream.program, asked.task, asked.stream.cut
    size, whole = asked.form.dtype.itemsize, asked.form.whole
    for name in sorted(reads_of(program)):
        leaf, _, solves = name.partition("@")
        if leaf not in program.leaves or leaf not in ("u", "v"):
            continue
        examples = task.N if leaf == "v" else task.Q
        known = Operations() if not solves else None if whole is None else whole.times(int(solves))
        made = Cost(2 * examples * task.P, _READ * size * examples * task.P)
        part = _one(made, asked)
        if part.seconds is not None:
            passed = model_seconds(
                task, task.blocks(), Fisher(kind="empirical"), cut.size, examples
            )
            part = replace(part, seconds=part.seconds + passed)
        yield _with(part, known, examples, asked).times(asked.places(program.leaves[leaf]))
    for one in program.products:
        rows = max(asked.count((x,)) for x in one.indices)
        flops = 2 * asked.count(one.indices) * task.P
        made_numbers = sum(_elementwise(side, asked) for side in one.reads)
        yield _one(Cost(flops, _READ * size * (task.P * rows + made_numbers)), asked)
    yield from _sums_and_solutions(asked)


def _sums_and_solutions(asked: _Scores) -> Iterator[_Part]:
    """Sums over examples, and matrices applied to rows."""
    size = asked.form.dtype.itemsize
    for one in asked.stream.program.assignments.values():
        if isinstance(one, ExampleSum):
            flops = 2 * asked.count((*one.indices, *one.bound)) * len(one.terms)
            yield _one(Cost(flops, size * asked.count(one.indices)), asked)
        if isinstance(one, Solution):
            numbers = asked.count(one.indices)
            part = _one(Cost(0, _READ * size * numbers), asked)
            yield _with(part, asked.form.whole, numbers // asked.task.P, asked)


def _with(part: _Part, applied: Operations | None, rows: int, asked: _Scores) -> _Part:
    """Also applying C⁻¹ to some rows."""
    if applied is None:
        return replace(part, seconds=None)
    cost = part.cost + Cost(round(applied.flops(rows)))
    if part.seconds is None or asked.rates is None:
        return _Part(cost, None)
    return _Part(cost, part.seconds + applied.seconds(rows, asked.rates, asked.form.dtype))


def _elementwise(row: Expr, asked: _Scores) -> int:
    """Numbers that arithmetic of rows makes."""
    return sum(asked.count(free_indices(x)) for x in walk(row) if isinstance(x, Binary | Apply))


def _one(cost: Cost, asked: _Scores) -> _Part:
    """Cut into the chunks of the training examples."""
    if asked.rates is None:
        return _Part(cost, None)
    rates, count = asked.rates, asked.stream.cut.count
    products = rates.product(cost.flops / count, asked.form.dtype)
    # Tensors of a chunk follow one another in memory that is there.
    return _Part(cost, count * (products + rates.copy(cost.bytes / count) + rates.call))


def _of(one: Product, letter: str) -> bool:
    return any(x.space == letter for x in one.indices)
