"""How many operations a product with an operator takes: of every structure, and of solvers whose steps are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from curvlang.costs.rates import Rates
from curvlang.operators import (
    Arnoldi,
    BlockDiagonal,
    CholeskyInverse,
    ConjugateGradients,
    Dense,
    Diagonal,
    Eigen,
    EigenBasis,
    Gram,
    Identity,
    Kronecker,
    LowRank,
    Neumann,
    Operator,
    PerOutput,
    PerOutputEigen,
    Projected,
    Scaled,
    Stacked,
    Sum,
)

_STEP = 10
"""Numbers read and written for each entry of a vector in a step of an iteration, its product aside."""
_BASIS = 8
"""Operations for each entry of the basis in a step of the Arnoldi iteration: orthogonalised twice."""


@dataclass(frozen=True, slots=True)
class Operations:
    """What products of an operator with vectors take.

    Args:
        each: Operations of a vector.
        once: Operations before the first one, vector by vector.
        moved: Numbers that are read and written beside the products, for a vector.
    """

    each: float = 0.0
    once: float = 0.0
    moved: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        """Both."""
        return Operations(self.each + other.each, self.once + other.once, self.moved + other.moved)

    def times(self, count: float) -> Operations:
        """So many times; what is found once is not found again."""
        return Operations(count * self.each, self.once, count * self.moved)

    def flops(self, vectors: int) -> float:
        """Of all vectors together."""
        return self.once + vectors * self.each

    def seconds(self, vectors: int, rates: Rates, kind: torch.dtype = torch.float64) -> float:
        """Of all vectors, multiplied at once; what is found once reads a number for every two operations."""
        found = self.once / 2 * kind.itemsize / rates.peak_bytes
        if self.each and vectors:
            found += rates.product(vectors * self.each, kind, vectors)
        return found + vectors * self.moved * kind.itemsize / rates.peak_bytes


def operations(operator: Operator, products: float | None = None) -> Operations | None:
    """Of a product with one vector; None where a solver says how many products it takes when it has taken them.

    Args:
        operator: Of any structure; only shapes are read.
        products: Those with the matrix that conjugate gradients ask for, for each vector, where it is known.
    """
    match operator:
        case Identity() | Diagonal():
            return Operations(operator.size)
        case Dense() | CholeskyInverse():
            return Operations(2.0 * operator.size**2)
        case Eigen():
            return Operations(4.0 * operator.size**2)
        case Kronecker(left=left, right=right):
            return Operations(2.0 * operator.size * (len(left) + len(right)))
        case EigenBasis(left=left, right=right):
            sides = sum(len(x) for x in (left, right) if x is not None)
            return Operations(operator.size * (4.0 * sides + 1))
        case PerOutput(blocks=blocks):
            return Operations(2.0 * blocks.numel())
        case PerOutputEigen(vectors=basis) | LowRank(basis=basis) | Gram(columns=basis):
            return Operations(4.0 * basis.numel())
        case Projected(inner=inner):
            return _added([_lifted(operator), operations(inner)])
        case Scaled(operator=inner):
            return operations(inner)
        case Stacked(groups=groups):
            known = operations(operator.first_unit())
            return None if known is None else known.times(groups)
        case Sum(terms=parts) | BlockDiagonal(parts=parts):
            return _added([operations(x, products) for x in parts])
        case ConjugateGradients(preconditioner=approximate) if products is not None:
            return _steps(operator.operator, approximate, products)
        case Neumann(by_example=by_example, batch=batch):
            return _iterated(operator) if batch is None or by_example is None else None
        case Arnoldi():
            return _leading(operator)
        case _:
            return None


def _added(parts: Sequence[Operations | None]) -> Operations | None:
    """Of all parts; None where any is not known."""
    known = [x for x in parts if x is not None]
    return sum(known, Operations()) if len(known) == len(parts) else None


def _lifted(operator: Projected) -> Operations:
    """Into the coordinates, and out of them."""
    (wide, narrow), (long, short) = operator.shapes
    return Operations(
        4.0 * (operator.left is not None) * wide * narrow * long
        + 4.0 * (operator.right is not None) * narrow * long * short
    )


def _iterated(operator: Neumann) -> Operations | None:
    """A product and a preconditioned vector in every step, and a product that says what is left."""
    steps = operator.steps * operator.repeats
    return _steps(operator.operator, operator.preconditioner, steps)


def _steps(matrix: Operator, approximate: Operator | None, count: float) -> Operations | None:
    """So many products with a matrix, each with its preconditioned vector."""
    known = _added([operations(x) for x in (matrix, approximate) if x is not None])
    return None if known is None else (known + Operations(moved=_STEP * matrix.size)).times(count)


def _leading(operator: Arnoldi) -> Operations | None:
    """A basis of as many vectors as the iteration may take, and products with the leading ones."""
    known, P = operations(operator.operator), operator.size
    steps, rank = min(operator.wanted.iterations, P), min(operator.wanted.rank, P)
    if known is None:
        return None
    basis = steps * known.each + _BASIS * P * steps * (steps + 1) / 2
    return Operations(4.0 * P * rank, basis)
