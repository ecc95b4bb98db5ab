"""Component tensors and a structure become an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import assert_never

import torch
from torch import Tensor

from curvlang.compiler.structure import (
    BlocksShape,
    DenseShape,
    DiagonalShape,
    EigenBasisShape,
    GramShape,
    IdentityShape,
    KroneckerShape,
    LeafShape,
    LowRankShape,
    ProductShape,
    ProjectedShape,
    Shape,
    SumShape,
)
from curvlang.operators import (
    Dense,
    Diagonal,
    EigenBasis,
    Identity,
    Kronecker,
    Operator,
    PerOutput,
    Sum,
    low_rank,
    projected,
)

Product = Callable[[LeafShape | GramShape], Operator]
"""Makes the matrix-free operator for a block whose entries do not fit."""


def operator(
    shape: Shape, parts: Mapping[str, Tensor], size: int, product: Product, prefix: str = ""
) -> Operator:
    """The operator of one block.

    Args:
        shape: Its structure.
        parts: Component tensors by name.
        size: Parameters in the block.
        product: For structures known by their products alone.
        prefix: Where a sum's term finds its components.
    """

    def part(name: str) -> Tensor:
        return parts[prefix + name]

    match shape:
        case ProjectedShape(inner=inner, bases=bases):
            found = [None if basis is None else part(f"basis.{k}") for k, basis in enumerate(bases)]
            narrow = size
            for tensor in found:
                if tensor is not None:
                    narrow = narrow // tensor.shape[0] * tensor.shape[1]
            left, right = (*found, None)[:2]
            made = operator(inner, parts, narrow, product, f"{prefix}inner.")
            return projected(made, left, right)
        case IdentityShape():
            return Identity(torch.as_tensor(part("scale")), size)
        case DiagonalShape():
            return Diagonal(part("entries").reshape(-1).clone())
        case KroneckerShape():
            return Kronecker(_symmetric(part("left")), _symmetric(part("right")))
        case EigenBasisShape(left=left, right=right):
            return EigenBasis(
                part("left") if left is not None else None,
                part("right") if right is not None else None,
                part("spectrum").clone(),
            )
        case BlocksShape(unit=unit):
            return PerOutput(_symmetric(part("entries")), unit)
        case LowRankShape(axes=axes):
            factor = part("factor").reshape(size, -1)
            spectrum = part("spectrum")
            count = prod(factor.shape[1:])
            return low_rank(factor, _filled(spectrum, factor, len(axes), count))
        case LeafShape():
            return Dense(part("leaf").reshape(size, size))
        case GramShape() | DenseShape():
            return Dense(_symmetric(part("entries").reshape(size, size)))
        case ProductShape(source=source):
            return product(source)
        case SumShape(terms=terms):
            return Sum(
                tuple(
                    operator(term, parts, size, product, f"{prefix}{k}.")
                    for k, term in enumerate(terms)
                )
            )
        case _:
            assert_never(shape)


def _filled(spectrum: Tensor, factor: Tensor, axes: int, count: int) -> Tensor:
    """The spectrum over all columns; a bare number stands for each of them."""
    value = torch.as_tensor(spectrum, dtype=factor.dtype, device=factor.device)
    return value.reshape(-1) if value.numel() == count and axes else value.expand(count)


def _symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part: what is left out is rounding, which `check_symmetric` has bounded."""
    return (matrix + matrix.mT) / 2
