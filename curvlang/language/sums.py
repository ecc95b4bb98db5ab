"""Sums of curvatures as lists of weighted chains, and what they say about the task's L2 term."""

from __future__ import annotations

from collections.abc import Iterator

from curvlang.ir.expr import Binary, BinaryOperator, Delta, Project, Yield
from curvlang.language.chain import Chain, Combination, Curvature, Weight

ONE = Weight()
DECAY = "weight_decay"
"""The value of a task that its L2 term is weighted with."""


def weighted_chains(curvature: Curvature, weight: Weight = ONE) -> Iterator[tuple[Weight, Chain]]:
    """The chains of a curvature with their weights, sums inside sums multiplied out."""
    match curvature:
        case Chain():
            yield weight, curvature
        case Combination(terms=terms):
            for own, part in terms:
                yield from weighted_chains(part, weight * own)


def sum_text(curvature: Combination) -> str:
    """The sum as the language writes it, multiplied out."""
    out = ""
    for weight, chain in weighted_chains(curvature):
        sign = "-" if weight.number < 0 else "+"
        size = Weight(abs(weight.number), weight.names)
        name = chain.labels[-1]
        term = name if size == ONE else f"{size} * {name}"
        out += f" {sign} {term}" if out else f"-{term}" if sign == "-" else term
    return out


def states_decay(curvature: Curvature) -> bool:
    """Whether a sum writes the task's L2 term itself: a multiple of I by the task's own weight.

    Where none does, λ·I is added once, whatever the weights.
    """
    return any(
        DECAY in weight.names and is_identity(chain) for weight, chain in weighted_chains(curvature)
    )


def is_identity(chain: Chain) -> bool:
    """Whether a chain ends in deltas alone, over every parameter: the matrix I, from its formula."""
    if any(isinstance(x, Project) for stage in chain.stages for x in stage.body):
        return False
    yields = [x for x in chain.stages[-1].body if isinstance(x, Yield)]
    return bool(yields) and _deltas(yields[-1])


def _deltas(found: Yield) -> bool:
    half = len(found.target.indices) // 2
    wanted = {
        frozenset(pair)
        for pair in zip(found.target.indices[:half], found.target.indices[half:], strict=True)
    }
    match found.value:
        case Delta(left=left, right=right):
            factors = [frozenset((left, right))]
        case Binary(
            operator=BinaryOperator.MULTIPLY,
            left=Delta(left=a, right=b),
            right=Delta(left=c, right=d),
        ):
            factors = [frozenset((a, b)), frozenset((c, d))]
        case _:
            return False
    return len(factors) == half and set(factors) == wanted
