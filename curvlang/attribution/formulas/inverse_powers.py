"""The inverse of a curvature applied several times, or not at all."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.operators import (
    BlockDiagonal,
    Diagonal,
    EigenBasis,
    Identity,
    MatrixFree,
    Operator,
    Stacked,
)


def inverse_power(inverse: Operator, count: int) -> Operator:
    """`(C⁻¹)^count`: entries of a diagonal form to that power, of other forms a product after the other.

    Args:
        inverse: C⁻¹.
        count: How often it is applied; 0 is the identity.
    """
    if count == 0:
        one = torch.ones((), dtype=inverse.dtype, device=inverse.device)
        return Identity(one, inverse.size)
    if count == 1:
        return inverse
    match inverse:
        case Identity(scale=scale, length=length):
            return Identity(scale**count, length)
        case Diagonal(entries=entries):
            return Diagonal(entries**count)
        case EigenBasis(left=left, right=right, spectrum=spectrum):
            return EigenBasis(left, right, spectrum**count)
        case BlockDiagonal(parts=parts):
            return inverse.with_parts(inverse_power(part, count) for part in parts)
        case Stacked(stack=Identity() | Diagonal() | EigenBasis() as stack, groups=g, length=n):
            return Stacked(inverse_power(stack, count), g, n)
        case _:
            return MatrixFree(
                lambda v: _applied(inverse, v, count), inverse.size, inverse.dtype, inverse.device
            )


def _applied(inverse: Operator, v: Tensor, count: int) -> Tensor:
    for _ in range(count):
        v = inverse @ v
    return v
