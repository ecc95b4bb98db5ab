"""Expressions over the parameters as sums of products: numbers in front, and factors with an index `p`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import reduce

from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir import expr as ir
from curvlang.ir.indices import free_indices

MOST_TERMS = 256
"""Products that one sum over the parameters may be multiplied out into."""
_POWERS = (2.0, 3.0, 4.0)
"""Exponents that are multiplied out."""


@dataclass(frozen=True, slots=True)
class RowTerm:
    """A product: numbers that no parameter has a part in, times factors that are over the parameters."""

    numbers: tuple[ir.Expr, ...] = ()
    factors: tuple[ir.Expr, ...] = ()

    def __mul__(self, other: RowTerm) -> RowTerm:
        return RowTerm(self.numbers + other.numbers, self.factors + other.factors)


class TooManyTermsError(Exception):
    """Raised where a sum over the parameters has more products than `MOST_TERMS`."""

    def __init__(self, span: Span) -> None:
        super().__init__("too many products")
        self.span = span


def over(expr: ir.Expr, indices: Collection[ir.Index]) -> bool:
    """Whether an expression has one of these indices free."""
    return any(x in indices for x in free_indices(expr))


def row_terms(
    expr: ir.Expr, indices: Collection[ir.Index], number: Callable[[ir.Expr], ir.Expr]
) -> list[RowTerm]:
    """The products that an expression adds up; what is not a product of sums is one factor.

    Args:
        expr: The expression.
        indices: Those over the parameters.
        number: What becomes of a part without them.

    Raises:
        TooManyTermsError: Where multiplying out gives too many.
    """
    if not over(expr, indices):
        return [RowTerm(numbers=(number(expr),))]
    match expr:
        case ir.Negate(operand=operand):
            sign = RowTerm(numbers=(ir.Number(-1.0),))
            return [sign * x for x in row_terms(operand, indices, number)]
        case ir.Binary(operator=ir.BinaryOperator.ADD, left=left, right=right):
            return [*row_terms(left, indices, number), *row_terms(right, indices, number)]
        case ir.Binary(operator=ir.BinaryOperator.SUBTRACT, left=left, right=right):
            return row_terms(
                ir.Binary(ir.BinaryOperator.ADD, left, ir.Negate(right)), indices, number
            )
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY, left=left, right=right):
            both = [row_terms(x, indices, number) for x in (left, right)]
            return _multiplied(both, expr.span)
        case ir.Binary(operator=ir.BinaryOperator.DIVIDE, left=left, right=right):
            inverse = ir.Binary(ir.BinaryOperator.DIVIDE, ir.Number(1.0), right, right.span)
            if over(right, indices):
                divided = [RowTerm(factors=(inverse,))]
            else:
                divided = [RowTerm(numbers=(number(inverse),))]
            return _multiplied([row_terms(left, indices, number), divided], expr.span)
        case ir.Binary(
            operator=ir.BinaryOperator.POWER, left=left, right=ir.Number(value=exponent)
        ) if exponent in _POWERS:
            once = row_terms(left, indices, number)
            return _multiplied([once] * int(exponent), expr.span)
        case _:
            return [RowTerm(factors=(expr,))]


def _multiplied(parts: Iterable[list[RowTerm]], span: Span) -> list[RowTerm]:
    def product(left: list[RowTerm], right: list[RowTerm]) -> list[RowTerm]:
        if len(left) * len(right) > MOST_TERMS:
            raise TooManyTermsError(span)
        return [x * y for x in left for y in right]

    return reduce(product, parts)


def product_of(parts: Iterable[ir.Expr]) -> ir.Expr:
    """The product of expressions; 1 of none.

    >>> product_of([])
    Number(value=1.0)
    """
    found: ir.Expr | None = None
    for part in parts:
        if found is None:
            found = part
        else:
            found = ir.Binary(ir.BinaryOperator.MULTIPLY, found, part, part.span)
    return ir.Number(1.0) if found is None else found


def sum_of(parts: Iterable[ir.Expr], span: Span = NOWHERE) -> ir.Expr:
    """The sum of expressions; 0 of none.

    >>> sum_of([])
    Number(value=0.0)
    """
    found: ir.Expr | None = None
    for part in parts:
        found = part if found is None else ir.Binary(ir.BinaryOperator.ADD, found, part, span)
    return ir.Number(0.0) if found is None else found
