"""Sums and multiples made of fitted operators, kept in blocks where their terms are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curvlang.operators.basic import Identity
from curvlang.operators.block_diagonal import BlockDiagonal, aligned
from curvlang.operators.combined import Scaled, Sum
from curvlang.operators.operator import Operator


def scaled(factor: float, operator: Operator) -> Operator:
    """The multiple c · C: c · (⊕ C_k) = ⊕ c C_k, and a multiple of I stays one."""
    match operator:
        case _ if factor == 1.0:
            return operator
        case Identity(scale=scale, length=length):
            return Identity(factor * scale, length)
        case Scaled(factor=inner, operator=inside):
            return scaled(factor * inner, inside)
        case BlockDiagonal(parts=parts):
            return operator.with_parts(p.each(lambda unit: scaled(factor, unit)) for p in parts)
        case Sum(terms=terms):
            return Sum(tuple(scaled(factor, t) for t in terms))
        case _:
            return Scaled(factor, operator)


def added(terms: Sequence[Operator]) -> Operator:
    """C_1 + C_2 + …; (⊕ A_k) + (⊕ B_k) + c I = ⊕ (A_k + B_k + c I) where the blocks are the same."""
    flat = [inner for term in terms for inner in _summands(term)]
    if len(flat) == 1:
        return flat[0]
    cut = [t for t in flat if isinstance(t, BlockDiagonal)]
    rest = [t for t in flat if not isinstance(t, BlockDiagonal)]
    shifts = [t for t in rest if isinstance(t, Identity)]
    if cut and len(shifts) == len(rest) and all(t.same_blocks(cut[0]) for t in cut):
        first, *others = aligned(cut)

        def with_shifts(*units: Operator) -> Operator:
            return added([*units, *(Identity(s.scale, units[0].size) for s in shifts)])

        return first.with_parts(
            part.each(with_shifts, *(t.parts[k] for t in others))
            for k, part in enumerate(first.parts)
        )
    return Sum(tuple(flat))


def _summands(term: Operator) -> Iterator[Operator]:
    if isinstance(term, Sum):
        for inner in term.terms:
            yield from _summands(inner)
    else:
        yield term
