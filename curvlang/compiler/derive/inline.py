"""Reading the curvature so far without forming it, where a formula contracts it.

In: an expression that reads `C`, and the expression of C's entries. Out: the same expression with
the entries put in place wherever an index of `C` is summed over; a mean over examples that makes
a whole block is moved outside the contraction,

    Σ_j (mean_n X[n,i,j]) W[j,k] = mean_n Σ_j X[n,i,j] W[j,k],

so that it becomes a pass over the data whose results are as small as the contraction's. Only
equalities are used. Reads that are not contracted stay reads of `C`: it is formed for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from curvlang.ir import expr as ir
from curvlang.ir.indices import all_indices, free_indices, fresh, rename

_DATA = "n"


@dataclass(frozen=True, slots=True)
class _Open:
    """An expression that is linear in `C[indices]`, which stands where `build` puts its argument."""

    read: ir.Ref
    build: Callable[[ir.Expr], ir.Expr]
    contracted: bool = False
    around: frozenset[ir.Index] = frozenset()

    def inside(self, build: Callable[[ir.Expr], ir.Expr]) -> _Open:
        """The same hole, one level further in."""
        inner = self.build
        return replace(self, build=lambda x: build(inner(x)))


def inline(expr: ir.Expr, name: str, formal: tuple[ir.Index, ...], value: ir.Expr) -> ir.Expr:
    """Put `value` in place of every contracted read of `name[formal]`."""
    return _Inliner(name, formal, value).closed(expr)


class _Inliner:
    def __init__(self, name: str, formal: tuple[ir.Index, ...], value: ir.Expr) -> None:
        self.name = name
        self.formal = formal
        self.terms = tuple(_summands(value, frozenset(formal)))

    def closed(self, expr: ir.Expr) -> ir.Expr:
        found = self.visit(expr)
        return self.close(found) if isinstance(found, _Open) else found

    def visit(self, expr: ir.Expr) -> ir.Expr | _Open:
        """Follow products and sums over indices down to a read; everything else is closed."""
        match expr:
            case ir.Ref(name=name) if name == self.name and not expr.cut and expr.indices:
                return _Open(expr, lambda x: x)
            case ir.Number() | ir.Ref() | ir.Delta() | ir.Size() | ir.Call():
                return expr
            case ir.Negate(operand=operand):
                return self._through(self.visit(operand), lambda x: replace(expr, operand=x))
            case ir.Reduce():
                return self._reduce(expr)
            case ir.Binary(operator=operator):
                match operator:
                    case ir.BinaryOperator.MULTIPLY:
                        return self._product(expr)
                    case ir.BinaryOperator.DIVIDE:
                        right = self.closed(expr.right)
                        left = self.visit(expr.left)
                        found = self._through(left, lambda x: replace(expr, left=x, right=right))
                        return _beside(found, right)
                    case (
                        ir.BinaryOperator.ADD | ir.BinaryOperator.SUBTRACT | ir.BinaryOperator.POWER
                    ):
                        left_, right_ = self.closed(expr.left), self.closed(expr.right)
                        return replace(expr, left=left_, right=right_)
                    case _:
                        assert_never(operator)
            case ir.Apply(arguments=arguments):
                return replace(expr, arguments=tuple(map(self.closed, arguments)))
            case _:
                assert_never(expr)

    def _through(
        self, found: ir.Expr | _Open, build: Callable[[ir.Expr], ir.Expr]
    ) -> ir.Expr | _Open:
        return found.inside(build) if isinstance(found, _Open) else build(found)

    def _reduce(self, expr: ir.Reduce) -> ir.Expr | _Open:
        found = self.visit(expr.body)
        if isinstance(found, _Open) and any(x.space == _DATA for x in expr.indices):
            found = self.close(found)
        opened = self._through(found, lambda x: replace(expr, body=x))
        if not isinstance(opened, _Open):
            return opened
        bound = set(expr.indices)
        return replace(
            opened,
            contracted=opened.contracted or bool(bound & set(opened.read.indices)),
            around=opened.around | bound,
        )

    def _product(self, expr: ir.Binary) -> ir.Expr | _Open:
        left, right = self.visit(expr.left), self.visit(expr.right)
        if isinstance(left, _Open) and isinstance(right, _Open):
            # Two reads in one product: the one on the left is closed first.
            left = self.close(left)
        if isinstance(right, _Open):
            other = left
            assert not isinstance(other, _Open)
            return _beside(right.inside(lambda x: replace(expr, left=other, right=x)), other)
        closed = right
        found = self._through(left, lambda x: replace(expr, left=x, right=closed))
        return _beside(found, right)

    def close(self, hole: _Open) -> ir.Expr:
        """The expression with the entries put in, where that is a contraction that can be moved."""
        data = any(x.space == _DATA for x in hole.around)
        if not hole.contracted or data:
            return hole.build(hole.read)
        parts = [self._put(hole, term) for term in self.terms]
        found = parts[0]
        for part in parts[1:]:
            found = ir.Binary(ir.BinaryOperator.ADD, found, part)
        return found

    def _put(self, hole: _Open, term: ir.Expr) -> ir.Expr:
        mapping = {f: x for f, x in zip(self.formal, hole.read.indices, strict=True) if f != x}
        match term:
            case ir.Reduce(indices=bound, body=body) if _whole(term, frozenset(self.formal)):
                # The indices that move outside must not meet indices of what they move past.
                taken = set(hole.around) | all_indices(term) | set(hole.read.indices)
                aside: dict[ir.Index, ir.Index] = {}
                for index in bound:
                    if index in hole.around:
                        aside[index] = fresh(index.space, taken)
                        taken.add(aside[index])
                moved = rename(rename(body, aside), mapping)
                outer = tuple(aside.get(x, x) for x in bound)
                return replace(term, indices=outer, body=hole.build(moved))
            case _:
                return hole.build(rename(term, mapping))


def _beside(found: ir.Expr | _Open, other: ir.Expr) -> ir.Expr | _Open:
    if not isinstance(found, _Open):
        return found
    return replace(found, around=found.around | all_indices(other))


def _whole(term: ir.Reduce, formal: frozenset[ir.Index]) -> bool:
    """Whether a reduction over examples makes every entry of a block."""
    data = any(x.space == _DATA for x in term.indices)
    return data and frozenset(free_indices(term)) >= formal


def _summands(value: ir.Expr, formal: frozenset[ir.Index]) -> list[ir.Expr]:
    """Terms whose sum is the value, with data reductions of whole blocks outermost in each."""
    match value:
        case ir.Binary(operator=ir.BinaryOperator.ADD, left=left, right=right):
            return _summands(left, formal) + _summands(right, formal)
        case ir.Binary(operator=ir.BinaryOperator.SUBTRACT, left=left, right=right):
            return _summands(left, formal) + [_negated(x) for x in _summands(right, formal)]
        case ir.Negate(operand=operand):
            return [_negated(x) for x in _summands(operand, formal)]
        case ir.Binary(
            operator=ir.BinaryOperator.MULTIPLY, left=left, right=ir.Reduce() as right
        ) if _whole(right, formal) and _plain(left, right):
            return [replace(right, body=replace(value, right=right.body))]
        case ir.Binary(
            operator=ir.BinaryOperator.DIVIDE | ir.BinaryOperator.MULTIPLY, left=ir.Reduce() as left
        ) if _whole(left, formal) and _plain(value.right, left):
            return [replace(left, body=replace(value, left=left.body))]
        case _:
            return [value]


def _negated(term: ir.Expr) -> ir.Expr:
    if isinstance(term, ir.Reduce):
        return replace(term, body=ir.Negate(term.body))
    return ir.Negate(term)


def _plain(factor: ir.Expr, reduction: ir.Reduce) -> bool:
    """Whether a factor shares no index with a reduction, so that it can stand inside."""
    return not all_indices(factor) & set(reduction.indices)
