"""The arithmetic of a score around its products: what is known of all examples, of a turn of queries, of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import torch
from torch import Tensor

from curvlang.attribution.formulas.indexed_tensors import IndexedTensor, Reader
from curvlang.attribution.formulas.points import Place, Point, contexts
from curvlang.attribution.formulas.product_source import (
    OwnProducts,
    PairProducts,
    Queries,
    between_queries,
)
from curvlang.attribution.formulas.rows import doubts, query_rows, solved, training_rows
from curvlang.attribution.gradients import product
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.ir import expr as ir
from curvlang.ir.score_program import (
    DOUBTS,
    EXAMPLE,
    MOMENTS,
    QUERY,
    QUERY_GRADIENT,
    RATE,
    Assignment,
    ExampleSum,
    Formula,
    Matrix,
    Product,
    ScoreProgram,
    Solution,
    gradient_of,
    passes_of,
)


@dataclass(slots=True, eq=False)
class _Chunk:
    """Some training examples, with what is known of them."""

    within: range
    known: dict[str, IndexedTensor] = field(default_factory=dict)
    rows: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    pairs: dict[tuple[str, Place], Tensor] | None = None


class Evaluation:
    """A score of the queries of a turn.

    Args:
        program: The score.
        queries: Of the turn.
        cut: The training examples in chunks.
        lengths: Of the spaces that the score declares, and of its examples.
    """

    def __init__(
        self, program: ScoreProgram, queries: Queries, cut: ScoreCut, lengths: Mapping[str, int]
    ) -> None:
        self.program = program
        self.queries = queries
        self.cut = cut
        self.lengths = dict(lengths)
        self.like = torch.empty(
            0, dtype=queries.points.final.inverse.dtype, device=queries.points.final.task.device
        )
        self._known: dict[str, IndexedTensor] = {}
        self._rows: dict[tuple[str, int], Tensor] = {}
        self._own = OwnProducts()
        self._pairs = self._pair_products() if program.by_products else None
        for together in passes_of(program):
            self._pass(together)

    def scores(self, within: range) -> Tensor:
        """The scores of some training examples, [Q, B] or [B]."""
        chunk = _Chunk(within)
        found = self._reader(chunk).evaluate(self.program.value).over(self.program.result)
        shape = [self._length(x, chunk) for x in self.program.result]
        return found.expand(shape).contiguous()

    def _length(self, index: ir.Index, chunk: _Chunk) -> int:
        return len(chunk.within) if index.space == EXAMPLE else self.lengths[index.space]

    def _pair_products(self) -> PairProducts | None:
        pairs = [x for x in self.program.products if of_pairs(x)]
        return PairProducts(pairs, self.queries) if pairs else None

    def _reader(self, chunk: _Chunk | None) -> Reader:
        return Reader(lambda ref: self._tensor(ref, chunk), self.lengths, self.like)

    def _tensor(self, ref: ir.Ref, chunk: _Chunk | None) -> IndexedTensor:
        """What a reference names, under the indices that it is written with."""
        assignment = self.program.assignments.get(ref.name)
        if assignment is None:
            return self._leaf(ref, chunk).renamed(ref.indices)
        found = self._assigned(assignment, chunk)
        return found.renamed(ref.indices) if ref.indices else found

    def _assigned(self, one: Assignment, chunk: _Chunk | None) -> IndexedTensor:
        known = self._known
        if any(x.space == EXAMPLE for x in one.indices):
            assert chunk is not None
            known = chunk.known
        if one.name not in known:
            found = self._computed(one, chunk)
            known[one.name] = IndexedTensor(found.over(one.indices), one.indices)
        return known[one.name]

    def _computed(self, one: Assignment, chunk: _Chunk | None) -> IndexedTensor:
        reader = self._reader(chunk)
        match one:
            case Product():
                return self._product(one, chunk)
            case Formula(value=value):
                found = reader.evaluate(value)
                shape = [
                    self._length(x, chunk) if chunk is not None else self.lengths[x.space]
                    for x in one.indices
                ]
                return IndexedTensor(found.over(one.indices).expand(shape), one.indices)
            case Matrix(call=call, position=position):
                made = reader.matrix(call, position, one.indices)
                for index, size in zip(made.axes, made.values.shape, strict=True):
                    self.lengths.setdefault(index.space, size)
                return made
            case Solution(rows=rows):
                return self._solved(one, reader.evaluate(rows))
            case ExampleSum():
                return self._summed(one, reader, self.lengths)
            case _:
                assert_never(one)

    def _summed(self, one: ExampleSum, reader: Reader, lengths: Mapping[str, int]) -> IndexedTensor:
        """A sum over the examples that are at hand; a mean is divided by how many there are at all."""
        total: Tensor | None = None
        for number, rows in one.terms:
            body = ir.Binary(ir.BinaryOperator.MULTIPLY, number, rows)
            term = ir.Reduce(ir.ReductionKind.SUM, one.bound, body)
            found = reader.reduced(term, lengths).over(one.indices)
            total = found if total is None else total + found
        assert total is not None
        if one.kind is ir.ReductionKind.MEAN:
            for index in one.bound:
                total = total / self.lengths[index.space]
        return IndexedTensor(total, one.indices)

    def _pass(self, together: tuple[ExampleSum, ...]) -> None:
        """Sums over all training examples, chunk by chunk in their order."""
        for k in range(self.cut.count):
            chunk = _Chunk(self.cut.chunk(k))
            reader = self._reader(chunk)
            lengths = {**self.lengths, EXAMPLE: len(chunk.within)}
            for one in together:
                found = self._summed(one, reader, lengths)
                if k:
                    found = IndexedTensor(self._known[one.name].values + found.values, one.indices)
                self._known[one.name] = found

    def _product(self, one: Product, chunk: _Chunk | None) -> IndexedTensor:
        if self.program.by_products:
            return self._factored(one, chunk)
        reader = self._reader(chunk)
        left = reader.evaluate(one.left)
        right = None if one.right is None else reader.evaluate(one.right)
        letters = {x: chr(ord("a") + k) for k, x in enumerate((*one.indices, one.index))}
        sides = [x for x in (left, right) if x is not None]
        equation = ",".join("".join(letters[x] for x in side.axes) for side in sides)
        result = "".join(letters[x] for x in one.indices)
        values = torch.einsum(f"{equation}->{result}", *(x.values for x in sides))
        return IndexedTensor(values, one.indices)

    def _factored(self, one: Product, chunk: _Chunk | None) -> IndexedTensor:
        """A product from what layers show."""
        if of_pairs(one):
            assert chunk is not None
            assert self._pairs is not None
            if chunk.pairs is None:
                chunk.pairs = self._pairs.over(chunk.within)
            found = chunk.pairs
            return self._over_places(one, lambda place: found[one.name, place])
        own = gradient_of(one.left)
        assert own is not None
        leaf, count = own
        indices = contexts(one.indices)

        def taken(place: Place) -> Tensor:
            point = self.queries.points.at(indices, place)
            if leaf != QUERY_GRADIENT:
                assert chunk is not None
                return self._own.of_training(point, count, chunk.within)
            if sum(x.space == QUERY for x in one.indices) > 1:
                return between_queries(point, count, self.queries)
            return self._own.of_queries(point, count, self.queries)

        return self._over_places(one, taken)

    def _over_places(self, one: Product, taken: Callable[[Place], Tensor]) -> IndexedTensor:
        """A tensor for every model and checkpoint, put together."""
        outer = contexts(one.indices)
        inner = tuple(x for x in one.indices if x not in outer)
        queries_first = tuple(sorted(inner, key=lambda x: (x.space != QUERY, x)))
        return _stacked(
            self.queries.points.places(outer), taken, self.queries, outer, queries_first
        )

    def _solved(self, one: Solution, rows: IndexedTensor) -> IndexedTensor:
        outer = contexts(one.indices)
        points = self.queries.points
        values = rows.over((*outer, *(x for x in one.indices if x not in outer)))
        flat = values.reshape(-1, *values.shape[len(outer) :])
        parts = [
            product(points.at(outer, place).inverse, x.reshape(-1, x.shape[-1])).reshape(x.shape)
            for place, x in zip(points.places(outer), flat, strict=True)
        ]
        kept = tuple(x for x in one.indices if x not in outer)
        return IndexedTensor(torch.stack(parts).reshape(values.shape), (*outer, *kept))

    def _leaf(self, ref: ir.Ref, chunk: _Chunk | None) -> IndexedTensor:
        """Rows of gradients at every point that they are asked at; the rates of checkpoints."""
        if ref.name == RATE:
            assert self.queries.points.rates is not None
            return IndexedTensor(self.queries.points.rates.to(self.like), ref.indices)
        if ref.name in DOUBTS or ref.name in MOMENTS:
            return self._of_points(ref.name, chunk)
        own = gradient_of(ref)
        assert own is not None
        leaf, count = own
        declared = self.program.leaves[leaf]
        outer = contexts(declared)
        inner = tuple(x for x in declared if x not in outer)

        def taken(place: Place) -> Tensor:
            point = self.queries.points.at(outer, place)
            return solved(point, self._gradients(leaf, point, chunk), count)

        return _stacked(self.queries.points.places(outer), taken, self.queries, outer, inner)

    def _of_points(self, name: str, chunk: _Chunk | None) -> IndexedTensor:
        """A leaf that is not a gradient, at every point that it is asked at."""
        declared = self.program.leaves[name]
        outer = contexts(declared)
        inner = tuple(x for x in declared if x not in outer)

        def taken(place: Place) -> Tensor:
            point = self.queries.points.at(outer, place)
            if name in MOMENTS:
                return point.moments[name].to(self.like)
            train = inner[0].space == EXAMPLE
            assert chunk is not None or not train
            within = chunk.within if train and chunk is not None else None
            found = doubts(point.task, "train" if train else "query", within)
            return _grouped(found, self.queries.weights, train=train).to(self.like)

        return _stacked(self.queries.points.places(outer), taken, self.queries, outer, inner)

    def _gradients(self, leaf: str, point: Point, chunk: _Chunk | None) -> Tensor:
        key = leaf, id(point)
        if leaf == QUERY_GRADIENT:
            if key not in self._rows:
                self._rows[key] = query_rows(point, self.queries.cost, self.queries.weights)
            return self._rows[key]
        assert chunk is not None
        if key not in chunk.rows:
            chunk.rows[key] = training_rows(point, chunk.within)
        return chunk.rows[key]


def _grouped(found: Tensor, weights: Tensor | None, *, train: bool) -> Tensor:
    """Numbers of queries, or of groups of them."""
    return found if train or weights is None else weights.to(found) @ found


def _stacked(
    places: Iterator[Place],
    taken: Callable[[Place], Tensor],
    queries: Queries,
    outer: tuple[ir.Index, ...],
    inner: tuple[ir.Index, ...],
) -> IndexedTensor:
    parts = [taken(place) for place in places]
    if not outer:
        return IndexedTensor(parts[0], inner)
    sizes = [queries.points.lengths[x.space] for x in outer]
    values = torch.stack(parts)
    return IndexedTensor(values.reshape(*sizes, *values.shape[1:]), (*outer, *inner))


def of_pairs(one: Product) -> bool:
    """Whether a product is of queries with training examples."""
    return {x.space for x in one.indices} >= {QUERY, EXAMPLE}
