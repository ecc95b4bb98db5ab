"""Indices that are split and joined again: what their ones and zeros cancel to.

With δ(o; h,d) = 1 where o is the pair (h,d), and 0 elsewhere,

    δ(o; h,d) δ(o′; h,d) = δ(o,o′) δ(o; h,d)        δ(o; h,d) δ(o; h′,d′) = δ(h,h′) δ(d,d′) δ(o; h,d)
    Σ_hd δ(o; h,d) = 1                              Σ_o δ(o; h,d) = 1
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from curvlang.compiler.algebra.terms import Factor, Term, factor_indices
from curvlang.ir.expr import Call, Delta, Index
from curvlang.ir.places import is_split


def cancelled(term: Term) -> Term:
    """The term after one of these equalities; itself where none applies."""
    splits = [k for k, f in enumerate(term.factors) if is_split(f)]
    for first, second in combinations(splits, 2):
        deltas = _tied(term.factors[first], term.factors[second])
        if deltas is not None:
            rest = term.factors[:second] + term.factors[second + 1 :]
            return replace(term, factors=rest + deltas)
    for k in splits:
        rest = term.factors[:k] + term.factors[k + 1 :]
        index, *parts = factor_indices(term.factors[k])
        elsewhere = {x for f in rest for x in factor_indices(f)}
        for alone, other in ((parts, [index]), ([index], parts)):
            if set(alone) <= set(term.summed) - elsewhere and set(other) <= elsewhere:
                summed = tuple(x for x in term.summed if x not in alone)
                return replace(term, summed=summed, factors=rest)
    return term


def _tied(first: Factor, second: Factor) -> tuple[Factor, ...] | None:
    """What the second of two splits is beside the first; None where they are not of the same parts or index."""
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    index, *parts = first.indices
    other, *others = second.indices
    if [x.space for x in parts] != [x.space for x in others] or index.space != other.space:
        return None
    if parts == others:
        return _deltas([(index, other)])
    return _deltas(list(zip(parts, others, strict=True))) if index == other else None


def _deltas(pairs: list[tuple[Index, Index]]) -> tuple[Factor, ...]:
    return tuple(Delta(x, y) for x, y in pairs if x != y)
