"""The arithmetic of a score around its products: what is known of all examples, of a turn of queries, of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import assert_never

import torch
from torch import Tensor

from curvlang.attribution.formulas.application import Application
from curvlang.attribution.formulas.indexed_tensors import IndexedTensor, Reader
from curvlang.attribution.formulas.points import Place, Point, Points, contexts
from curvlang.attribution.formulas.product_source import (
    OwnProducts,
    PairProducts,
    Queries,
    between_queries,
)
from curvlang.attribution.formulas.rows import doubts, query_rows, solved, training_rows
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.compiler.planning.chunks import Chunks
from curvlang.ir import expr as ir
from curvlang.ir.indices import names
from curvlang.ir.score_program import (
    DOUBTS,
    EXAMPLE,
    MOMENTS,
    QUERY,
    QUERY_GRADIENT,
    RATE,
    TIME,
    TRAINING_GRADIENT,
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
from curvlang.runtime.passes.example_sums import summed
from curvlang.runtime.processes.in_step import out_of_step


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
        self._kept = queries.points.kept
        self._factors: tuple[ir.Expr, IndexedTensor] | None = None
        self.by_products = computed_by_products(program, queries.points)
        self._pairs = self._pair_products() if self.by_products else None
        for name, values in ({} if self._kept is None else self._kept.sums).items():
            self._known[name] = IndexedTensor(
                values.to(self.like), program.assignments[name].indices
            )
        for together in passes_of(program):
            self._pass(tuple(x for x in together if x.name not in self._known))

    def scores(self, within: range) -> Tensor:
        """The scores of some training examples, [Q, B] or [B]."""
        chunk = self._begun(within)
        found = self._reader(chunk).evaluate(self.program.value).over(self.program.result)
        shape = [self._length(x, chunk) for x in self.program.result]
        return found.expand(shape).contiguous()

    def values(self, names: Mapping[str, tuple[ir.Index, ...]], within: range) -> dict[str, Tensor]:
        """What has a number for each of some training examples, by name, with axes as they are given."""
        chunk, found = self._begun(within), {}
        for name, indices in names.items():
            value = self._tensor(ir.Ref(name, indices), chunk).over(indices)
            found[name] = value.expand([self._length(x, chunk) for x in indices])
        return found

    def sums(self) -> dict[str, Tensor]:
        """Every sum over all training examples, by name."""
        wanted = [x for together in passes_of(self.program) for x in together]
        return {x.name: self._known[x.name].over(x.indices) for x in wanted}

    def _begun(self, within: range) -> _Chunk:
        """Some training examples, with what is kept of them."""
        chunk = _Chunk(within)
        for name, x in ({} if self._kept is None else self._kept.chunk(within)).items():
            values = x.to(self.like)
            if name == TRAINING_GRADIENT:
                chunk.rows[name, id(self.queries.points.final)] = values
                continue
            one = self.program.assignments.get(name)
            indices = self.program.leaves[name] if one is None else one.indices
            chunk.known[name] = IndexedTensor(values, indices)
        return chunk

    def _length(self, index: ir.Index, chunk: _Chunk) -> int:
        return len(chunk.within) if index.space == EXAMPLE else self.lengths[index.space]

    def _pair_products(self) -> PairProducts | None:
        pairs = [x for x in self.program.products if of_pairs(x)]
        return PairProducts(pairs, self.queries, self._asked_rows) if pairs else None

    def _asked_rows(self, one: Product, place: Place) -> Tensor:
        """Rows of queries at a place, [Q, P]."""
        found = self._reader(None).evaluate(one.left)
        outer = contexts(one.indices)
        kept = tuple(x for x in found.axes if x not in outer)
        at = dict(zip(outer, place, strict=True))
        own = tuple(x for x in outer if x in found.axes)
        values = found.over((*own, *sorted(kept, key=lambda x: x.space != QUERY)))
        return values[tuple(at[x] for x in own)]

    def _reader(self, chunk: _Chunk | None) -> Reader:
        return Reader(lambda ref: self._tensor(ref, chunk), self.lengths, self.like)

    def _tensor(self, ref: ir.Ref, chunk: _Chunk | None) -> IndexedTensor:
        """What a reference names, under the indices that it is written with."""
        assignment = self.program.assignments.get(ref.name)
        if assignment is None and chunk is not None and ref.name in chunk.known:
            return chunk.known[ref.name].renamed(ref.indices)
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
                return self._solved(one, reader.evaluate(rows), reader)
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
        """Sums over all training examples, folded by the tree; processes that are in step share the chunks."""
        if not together:
            return
        sizes = [[self.lengths[x.space] for x in one.indices] for one in together]

        def over(numbers: range) -> Tensor:
            with out_of_step():
                total = self._summed_over(self.cut.chunk(numbers[0]), together, sizes)
                for k in numbers[1:]:
                    total += self._summed_over(self.cut.chunk(k), together, sizes)
                return total

        chunks = Chunks(self.cut.count, 1 << (self.cut.count.bit_length() - 1))
        found = summed(over, chunks, self.like.device).split([prod(x) for x in sizes])
        for one, values, shape in zip(together, found, sizes, strict=True):
            self._known[one.name] = IndexedTensor(values.reshape(shape), one.indices)

    def _summed_over(
        self, within: range, together: tuple[ExampleSum, ...], sizes: Sequence[Sequence[int]]
    ) -> Tensor:
        """The sums over a chunk, one behind the other."""
        reader = self._reader(self._begun(within))
        lengths = {**self.lengths, EXAMPLE: len(within)}
        return torch.cat(
            [
                self._summed(one, reader, lengths).over(one.indices).expand(shape).reshape(-1)
                for one, shape in zip(together, sizes, strict=True)
            ]
        )

    def _product(self, one: Product, chunk: _Chunk | None) -> IndexedTensor:
        if self.by_products:
            return self._factored(one, chunk)
        whole = self._without_coordinates(one)
        reader = self._reader(chunk) if whole is None else whole
        left = self._side(one.left, reader)
        right = None if one.right is None else self._side(one.right, reader)
        letters = {x: chr(ord("a") + k) for k, x in enumerate((*one.indices, one.index))}
        sides = [x for x in (left, right) if x is not None]
        equation = ",".join("".join(letters[x] for x in side.axes) for side in sides)
        result = "".join(letters[x] for x in one.indices)
        values = torch.einsum(f"{equation}->{result}", *(x.values for x in sides))
        return IndexedTensor(values, one.indices)

    def _without_coordinates(self, one: Product) -> Reader | None:
        """For products of queries that C⁻¹ has no part in: gradients over all parameters."""
        final = self.queries.points.final
        sides = gradient_of(one.left), None if one.right is None else gradient_of(one.right)
        if final.coordinates is None or any(x != (QUERY_GRADIENT, 0) for x in sides):
            return None
        own = replace(final, coordinates=None)
        rows = query_rows(own, self.queries.cost, self.queries.weights)
        return Reader(lambda ref: IndexedTensor(rows, ref.indices), self.lengths, self.like)

    def _side(self, side: ir.Expr, reader: Reader) -> IndexedTensor:
        """One side of a product; what no example has a part in is kept for the next chunk."""
        if gradient_of(side) is not None or not _constant(side):
            return reader.evaluate(side)
        if self._factors is None or self._factors[0] != side:
            self._factors = None
            self._factors = side, reader.evaluate(side)
        return self._factors[1]

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

    def _solved(self, one: Solution, rows: IndexedTensor, reader: Reader) -> IndexedTensor:
        """A matrix applied to rows, at every model and checkpoint that the result has."""
        outer, points = contexts(one.indices), self.queries.points
        kept = tuple(x for x in one.indices if x not in outer)
        given = rows.over((*outer, *kept))
        sizes = [points.lengths[x.space] for x in outer]
        applied = Application(one, points, outer, reader)
        parts: dict[Place, Tensor] = {}
        for place in applied.places():
            held = tuple(k if n > 1 else 0 for k, n in zip(place, given.shape, strict=False))
            parts[place] = applied.at(place, given[held])
        values = torch.stack([parts[place] for place in points.places(outer)])
        return IndexedTensor(values.reshape(*sizes, *values.shape[1:]), (*outer, *kept))

    def _leaf(self, ref: ir.Ref, chunk: _Chunk | None) -> IndexedTensor:
        """Rows of gradients at every point that they are asked at; the rates of checkpoints."""
        if ref.name in (RATE, TIME):
            points = self.queries.points
            known = points.rates if ref.name == RATE else points.times
            assert known is not None
            return IndexedTensor(known.to(self.like), ref.indices)
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


def computed_by_products(program: ScoreProgram, points: Points) -> bool:
    """Whether scores are computed from what layers show, without rows of training examples."""
    return program.by_products and points.kept is None and points.final.coordinates is None


def _constant(side: ir.Expr) -> bool:
    """Whether an expression names nothing: random numbers, and arithmetic of them."""
    return not names(side)


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
