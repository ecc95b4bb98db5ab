"""A sum of curvatures before anything runs: the structure of its result and how it is inverted.

In: the last result of every term. Out: lines for `curvlang explain`. The rules are those of
`operators.Sum.spectral_form`, read off the structures of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curvlang.compiler.algebra.shapes import (
    DiagonalShape,
    EigenBasisShape,
    IdentityShape,
    KroneckerShape,
    ProductShape,
    Shape,
    SumShape,
)
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.explain.derivation import structure_name
from curvlang.compiler.planning.plan import Plan, first_plan


def explain_sum(text: str, results: Sequence[Result], plans: Sequence[Plan]) -> tuple[str, ...]:
    """Lines about a sum.

    Args:
        text: The sum as the language writes it, multiplied out.
        results: The result of every term.
        plans: The plans that compute them.
    """
    shapes = [first_plan(r, plans).shape for r in results]
    pairs = [(r, s) for r, s in zip(results, shapes, strict=True) if not _identity(s)]
    partitions = {r.partition for r, _ in pairs}
    place = partitions.pop() if len(partitions) == 1 else Partition.MODEL
    where = "the whole model" if place == Partition.MODEL else f"each {place}"
    rest = tuple(inner for _, s in pairs for inner in _terms(s) if not _identity(inner))
    return (
        f"Sum: {text}",
        f"  structure of {where}: {' + '.join(map(structure_name, shapes))}",
        f"  inverse: {_rule(rest, one_program=len({r.key for r, _ in pairs}) == 1)}",
        "  the task's L2 term λ·I is added once, unless a term `weight_decay * identity` states it",
    )


def _identity(shape: Shape) -> bool:
    return isinstance(shape, IdentityShape)


def _terms(shape: Shape) -> Iterator[Shape]:
    if isinstance(shape, SumShape):
        for term in shape.terms:
            yield from _terms(term)
    else:
        yield shape


def _rule(shapes: Sequence[Shape], *, one_program: bool) -> str:
    """How the inverse of a sum is found, from its terms but the multiples of I."""
    match shapes:
        case ():
            return "a multiple of I"
        case _ if any(isinstance(s, ProductShape) for s in shapes):
            return "by conjugate gradients: a term is known by its products alone"
        case (only,):
            return f"the spectrum of the {structure_name(only)} term is shifted, exactly"
        case _ if all(isinstance(s, DiagonalShape) for s in shapes):
            return "elementwise"
        case _ if one_program and _shared(shapes):
            return "around what the terms share, a factor or an eigenbasis, exactly"
        case _:
            return "the terms share no basis: the entries are formed and decomposed"


def _shared(shapes: Sequence[Shape]) -> bool:
    """Whether all are Kronecker products with one factor in common, or stand in one eigenbasis."""
    products = [s for s in shapes if isinstance(s, KroneckerShape)]
    if len(products) == len(shapes):
        return len({s.right for s in products}) == 1 or len({s.left for s in products}) == 1
    bases = [s for s in shapes if isinstance(s, EigenBasisShape)]
    return len(bases) == len(shapes) and len({(s.left, s.right) for s in bases}) == 1
