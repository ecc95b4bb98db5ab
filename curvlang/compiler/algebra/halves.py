"""Contractions that are a factor times its own transpose: Gram matrices and low rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import assert_never

from curvlang.compiler.algebra.canonical import canonical_term
from curvlang.compiler.algebra.normal_form import components
from curvlang.compiler.algebra.shapes import Halves
from curvlang.compiler.algebra.terms import (
    Elementwise,
    Factor,
    Power,
    Term,
    factor_indices,
    rename_poly,
)
from curvlang.ir.expr import Call, Delta, Index, Ref

MOST_SHARED = 4
"""Axes that the two halves of a product are tried to share: a pass sums over `n,r,t`, rarely more."""


def split_product(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]) -> Halves | None:
    """Read a contraction as a factor times its own transpose, sharing as few axes as possible."""
    shared = _shared(term)
    for size in range(1, min(MOST_SHARED, len(shared)) + 1):
        for axes in combinations(shared, size):
            halves = _split_at(term, rows, columns, axes)
            if halves is not None:
                return halves
    return None


def _shared(term: Term) -> tuple[Index, ...]:
    """Bound indices that a factor and its mirror image could share: on two factors that are alike."""
    kinds: dict[Index, list[object]] = {x: [] for x in term.summed}
    for factor in term.factors:
        for index in dict.fromkeys(factor_indices(factor)):
            if index in kinds:
                kinds[index].append(_kind(factor))
    return tuple(x for x, found in kinds.items() if len(set(found)) < len(found))


def _kind(factor: Factor) -> object:
    match factor:
        case Ref(name=name):
            return name
        case Power(exponent=exponent):
            return exponent
        case Elementwise(function=function) | Call(function=function):
            return function
        case Delta():
            return Delta
        case _:
            assert_never(factor)


def _split_at(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], axes: tuple[Index, ...]
) -> Halves | None:
    inner = replace(term, summed=tuple(x for x in term.summed if x not in axes))
    parts: dict[str, list[Term]] = {"row": [], "column": [], "none": []}
    for part in components(inner, frozenset()):
        at_row, at_column = set(part.free) & set(rows), set(part.free) & set(columns)
        if at_row and at_column:
            return None
        parts["row" if at_row else "column" if at_column else "none"].append(part)
    half, other = merged(parts["row"]), merged(parts["column"])
    (other_half,) = rename_poly((other,), dict(zip(columns, rows, strict=True)))
    if set(half.free) & set(rows) != set(rows) or canonical_term(half) != canonical_term(
        other_half
    ):
        return None
    middle = replace(merged(parts["none"]), coefficient=term.coefficient, sizes=term.sizes)
    used = tuple(x for x in axes if x in half.free)
    return Halves(half, middle, axes) if set(used) == set(axes) else None


def merged(parts: Sequence[Term]) -> Term:
    """The product of contractions as one, without its coefficient."""
    return Term(
        1.0,
        (),
        tuple(x for part in parts for x in part.summed),
        tuple(f for part in parts for f in part.factors),
    )
