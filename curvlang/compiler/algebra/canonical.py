"""When two contractions are the same but for the names of what they sum over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from curvlang.compiler.algebra.terms import (
    Elementwise,
    Factor,
    Poly,
    Power,
    Term,
    factor_indices,
    rename_factor,
)
from curvlang.ir.expr import Call, Delta, Index, Ref

_FIRST = 10_000
"""Canonical bound indices start here: above what a spec writes and what normalisation makes."""


def canonical(poly: Poly, depth: int = 0) -> Poly:
    """The sum with bound indices numbered by appearance, factors and terms in a fixed order.

    Equal results mean equal expressions; equal expressions may still differ where the order of
    alike factors is a matter of choice.
    """
    return tuple(sorted((canonical_term(t, depth) for t in poly), key=repr))


def canonical_term(term: Term, depth: int = 0) -> Term:
    """One contraction in canonical form, what is nested inside its factors included."""
    blind = {x: Index(x.space, _FIRST - 1) for x in term.summed}
    inner = [_inside(f, depth + 1) for f in term.factors]
    order = sorted(inner, key=lambda f: repr(rename_factor(f, blind)))
    seen = dict.fromkeys(x for f in order for x in factor_indices(f) if x in term.summed)
    start = _FIRST + 100 * depth
    numbered = {x: Index(x.space, start + k) for k, x in enumerate(seen)}
    factors = tuple(_sides(_inside(rename_factor(f, numbered), depth + 1)) for f in order)
    return replace(term, summed=tuple(numbered.values()), factors=factors)


def mirrored(term: Term, sides: Mapping[Index, Index]) -> Term:
    """The transpose: rows and columns change places."""
    swap = dict(sides) | {column: row for row, column in sides.items()}
    return replace(term, factors=tuple(rename_factor(f, swap) for f in term.factors))


def _inside(factor: Factor, depth: int) -> Factor:
    match factor:
        case Power(base=base):
            return replace(factor, base=canonical(base, depth))
        case Elementwise(arguments=arguments):
            return replace(factor, arguments=tuple(canonical(p, depth) for p in arguments))
        case Ref() | Delta() | Call():
            return factor
        case _:
            assert_never(factor)


def _sides(factor: Factor) -> Factor:
    """A delta has no direction."""
    match factor:
        case Delta(left=left, right=right) if right < left:
            return replace(factor, left=right, right=left)
        case _:
            return factor
