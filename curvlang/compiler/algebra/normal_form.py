"""Normal form: an expression as a sum of contractions.

In: any tensor expression. Out: a `Poly`, whose terms are products of factors summed over bound
indices, with all nested sums, means, products, deltas and numbers pulled out. Only equalities are
used here, each proved by execution against the interpreter in the tests; one of them is what makes
eigenvalue correction cheap: where no shared position ties the factors of a contraction together,
the power of a product is the product of powers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import assert_never

from curvlang.compiler.algebra.coefficient import RoundingError, raised, times
from curvlang.compiler.algebra.splits import cancelled
from curvlang.compiler.algebra.terms import (
    Elementwise,
    Factor,
    Poly,
    Power,
    Term,
    factor_indices,
    rename_factor,
)
from curvlang.ir import expr as ir
from curvlang.ir.constants import constant
from curvlang.ir.indices import rename

_BOUND = 1_000
"""Bound indices get this many primes and more, so that no written index collides with them."""


def normalise(expr: ir.Expr, unit: frozenset[str] = frozenset()) -> Poly:
    """The normal form of an expression.

    Args:
        expr: The expression; every name in it is opaque.
        unit: Letters of spaces of length one, over which a sum ties nothing together.
    """
    return _Normaliser(unit).normalise(expr)


class _Normaliser:
    def __init__(self, unit: frozenset[str]) -> None:
        self.unit = unit
        self.counter = count(_BOUND)

    def normalise(self, expr: ir.Expr) -> Poly:
        match expr:
            case ir.Number(value=value):
                return (Term(value),)
            case ir.Size(index=index):
                return (Term(sizes=((index.space, 1),)),)
            case ir.Ref() | ir.Delta() | ir.Call():
                return (Term(factors=(expr,)),)
            case ir.Negate(operand=operand):
                return scale(self.normalise(operand), -1.0)
            case ir.Binary(operator=operator, left=left, right=right):
                return self._binary(operator, left, right)
            case ir.Apply(function=function, arguments=arguments):
                polys = tuple(self._argument(function, x) for x in arguments)
                return (Term(factors=(Elementwise(function, polys),)),)
            case ir.Reduce(kind=kind, indices=indices, body=body):
                return self._reduce(kind, indices, body)
            case _:
                assert_never(expr)

    def _binary(self, operator: ir.BinaryOperator, left: ir.Expr, right: ir.Expr) -> Poly:
        if operator is ir.BinaryOperator.ADD:
            return _sum(lambda: self.normalise(left), lambda: self.normalise(right))
        if operator is ir.BinaryOperator.SUBTRACT:
            negative = lambda: scale(self.normalise(right), -1.0)  # noqa: E731
            return _sum(lambda: self.normalise(left), negative)
        x = self.normalise(left)
        match operator:
            case ir.BinaryOperator.MULTIPLY:
                # The right side is normalised afresh, so its bound indices differ from the left's.
                return multiply(x, self.normalise(right))
            case ir.BinaryOperator.DIVIDE:
                return multiply(x, self.power(self.normalise(right), -1.0))
            case ir.BinaryOperator.POWER:
                return self.power(x, constant(right))
            case _:
                assert_never(operator)

    def _argument(self, function: str, expr: ir.Expr) -> Poly:
        """An argument of a function; one that rounds to zero is zero where zero means something."""
        try:
            return self.normalise(expr)
        except RoundingError:
            if function not in ("exp", "max", "min"):
                raise
            return (Term(0.0),)

    def _reduce(self, kind: ir.ReductionKind, indices: tuple[ir.Index, ...], body: ir.Expr) -> Poly:
        bound = {x: ir.Index(x.space, next(self.counter)) for x in indices}
        inner = self.normalise(rename(body, bound))
        terms = []
        for term in inner:
            present = [x for x in bound.values() if x in term.free]
            absent = [x for x in bound.values() if x not in term.free]
            powers = Counter(dict(term.sizes))
            if kind is ir.ReductionKind.MEAN:
                powers.subtract(x.space for x in present)
            else:
                powers.update(x.space for x in absent)
            summed = replace(term, summed=term.summed + tuple(present), sizes=_powers(powers))
            terms.append(_eliminated(summed))
        return tuple(terms)

    def power(self, poly: Poly, exponent: float) -> Poly:
        """`poly ^ exponent`; a single contraction splits into its independent components."""
        if exponent == 1.0:
            return poly
        if len(poly) != 1 or not float(exponent).is_integer():
            return (Term(factors=(Power(poly, exponent),)),)
        (term,) = poly
        factors = tuple(
            factor
            for component in components(term, self.unit)
            for factor in self._component(component, exponent)
        )
        powers = _powers(Counter({s: int(k * exponent) for s, k in term.sizes}))
        return (Term(raised(term.coefficient, exponent), powers, (), factors),)

    def _component(self, term: Term, exponent: float) -> tuple[Factor, ...]:
        match term:
            case Term(summed=(), factors=(Power(base=base, exponent=inner),)) if inner.is_integer():
                return (Power(base, inner * exponent),)
            case _:
                return (Power((term,), exponent),)


def scale(poly: Poly, factor: float) -> Poly:
    """Every term times a number."""

    def one(term: Term) -> Poly:
        return (replace(term, coefficient=times(term.coefficient, factor)),)

    return _sum(*(partial(one, term) for term in poly))


def _sum(*parts: Callable[[], Poly]) -> Poly:
    """The terms of all parts, without those that round to zero beside others that do not."""
    found: list[Term] = []
    lost: RoundingError | None = None
    for part in parts:
        try:
            found += part()
        except RoundingError as error:
            lost = error
    if lost is not None and not any(term.coefficient for term in found):
        raise lost
    return tuple(found)


def multiply(x: Poly, y: Poly) -> Poly:
    """The product; a sum stays together as one factor unless the other side is a bare number."""
    for one, other in ((x, y), (y, x)):
        match one:
            case (Term(sizes=(), summed=(), factors=()) as number,):
                return scale(other, number.coefficient)
            case _:
                pass
    left, right = _single(x), _single(y)
    powers = Counter(dict(left.sizes))
    powers.update(dict(right.sizes))
    return (
        Term(
            times(left.coefficient, right.coefficient),
            _powers(powers),
            left.summed + right.summed,
            left.factors + right.factors,
        ),
    )


def _single(poly: Poly) -> Term:
    return poly[0] if len(poly) == 1 else Term(factors=(Power(poly, 1.0),))


def _powers(powers: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((space, k) for space, k in powers.items() if k))


def components(term: Term, unit: frozenset[str]) -> tuple[Term, ...]:
    """Parts of a contraction that share no bound index (of length above one).

    The contraction is their elementwise product: Σ_ij x_i y_j = (Σ_i x_i)(Σ_j y_j).
    """
    groups: list[tuple[set[ir.Index], list[Factor]]] = []
    for factor in term.factors:
        ties = {x for x in factor_indices(factor) if x in term.summed and x.space not in unit}
        touching = [g for g in groups if g[0] & ties]
        merged: tuple[set[ir.Index], list[Factor]] = (set(ties), [])
        for group in touching:
            merged[0].update(group[0])
            merged[1].extend(group[1])
            groups.remove(group)
        merged[1].append(factor)
        groups.append(merged)
    return tuple(_component_term(term, factors) for _, factors in groups)


def _component_term(term: Term, factors: list[Factor]) -> Term:
    present = {x for factor in factors for x in factor_indices(factor)}
    return Term(1.0, (), tuple(x for x in term.summed if x in present), tuple(factors))


def _eliminated(term: Term) -> Term:
    """The term without deltas over bound indices, and without splits that cancel."""
    while True:
        found = eliminate_deltas(term)
        term = cancelled(found)
        if term == found:
            return found


def eliminate_deltas(term: Term) -> Term:
    """Σ_j δ_ij x_j = x_i: a delta over a bound index renames it away."""
    for k, factor in enumerate(term.factors):
        match factor:
            case ir.Delta(left=left, right=right) if right in term.summed and left != right:
                old, new = right, left
            case ir.Delta(left=left, right=right) if left in term.summed and left != right:
                old, new = left, right
            case _:
                continue
        rest = term.factors[:k] + term.factors[k + 1 :]
        if not any(old in factor_indices(f) or new in factor_indices(f) for f in rest):
            # The sum would lose its range with its last factor: Σ_j δ_ij = 1 for each i.
            continue
        renamed = tuple(rename_factor(f, {old: new}) for f in rest)
        summed = tuple(x for x in term.summed if x != old)
        return eliminate_deltas(replace(term, summed=summed, factors=renamed))
    return term


def data_reductions(expr: ir.Expr) -> bool:
    """Whether an expression reduces over examples anywhere."""
    from curvlang.ir.indices import walk

    return any(
        isinstance(node, ir.Reduce) and any(x.space == "n" for x in node.indices)
        for node in walk(expr)
    )
