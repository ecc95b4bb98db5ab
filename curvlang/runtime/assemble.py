"""Component tensors and a structure become an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import assert_never

import torch
from torch import Tensor

from curvlang.compiler.algebra import shapes
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.operators import (
    Dense,
    Diagonal,
    EigenBasis,
    Identity,
    Kronecker,
    Operator,
    PerOutput,
    Sum,
    at_once,
    low_rank,
    projected,
    stacked_from,
)
from curvlang.operators.validation import SYMMETRY

_NOISE = 1e-9
"""Of the largest entry of a sum: a term that is not symmetric by less is what others have left, rounded."""
Product = Callable[[shapes.LeafShape | shapes.GramShape], Operator]
"""Makes the matrix-free operator for a block whose entries do not fit."""


def operator(
    shape: shapes.Shape,
    parts: Mapping[str, Tensor],
    size: int,
    product: Product,
    *,
    span: Span = NOWHERE,
    beside: Tensor | None = None,
) -> Operator:
    """The operator of one block.

    Args:
        shape: Its structure.
        parts: Component tensors by name.
        size: Parameters in the block.
        product: For structures known by their products alone.
        span: The yield, for messages.
        beside: The largest entry of the sum that it is a term of: what is not symmetric by far less than that
            is rounding of what the other terms leave.

    Raises:
        SpecError: E0334 where a component that has to be symmetric is not.
    """
    part = parts.__getitem__

    def side(name: str, other: str, what: str) -> Tensor:
        scale = None if beside is None else beside / part(other).abs().max().clamp(min=1e-300)
        return _symmetric(part(name), what, span, scale)

    match shape:
        case shapes.ProjectedShape(inner=inner, bases=bases):
            found = [None if basis is None else part(f"basis.{k}") for k, basis in enumerate(bases)]
            narrow = size
            for tensor in found:
                if tensor is not None:
                    narrow = narrow // tensor.shape[0] * tensor.shape[1]
            left, right = (*found, None)[:2]
            made = operator(inner, _under("inner.", parts), narrow, product, span=span)
            return projected(made, left, right)
        case shapes.IdentityShape():
            return Identity(torch.as_tensor(part("scale")), size)
        case shapes.DiagonalShape():
            return Diagonal(part("entries").reshape(-1).clone())
        case shapes.KroneckerShape():
            return Kronecker(
                side("left", "right", "the factor over outputs"),
                side("right", "left", "the factor over inputs"),
            )
        case shapes.EigenBasisShape(left=left, right=right):
            return EigenBasis(
                part("left") if left is not None else None,
                part("right") if right is not None else None,
                part("spectrum").clone(),
            )
        case shapes.BlocksShape(unit=unit):
            what = f"the block of an {unit}"
            return PerOutput(_symmetric(part("entries"), what, span, beside), unit)
        case shapes.LowRankShape(axes=axes):
            factor = part("factor").reshape(size, -1)
            spectrum = part("spectrum")
            count = prod(factor.shape[1:])
            return low_rank(factor, _filled(spectrum, factor, len(axes), count))
        case shapes.LeafShape():
            return Dense(part("leaf").reshape(size, size))
        case shapes.GramShape() | shapes.DenseShape():
            entries = part("entries").reshape(size, size)
            return Dense(_symmetric(entries, "the block", span, beside))
        case shapes.ProductShape(source=source):
            return product(source)
        case shapes.SumShape(terms=terms):
            given = [_under(f"{k}.", parts) for k in range(len(terms))]
            largest = torch.stack([_largest(x) for x in given]).amax(0)
            return Sum(
                tuple(
                    operator(term, own, size, product, span=span, beside=largest)
                    for term, own in zip(terms, given, strict=True)
                )
            )
        case _:
            assert_never(shape)


def _under(prefix: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The components of a part of a structure, by their names in it."""
    return {k.removeprefix(prefix): x for k, x in parts.items() if k.startswith(prefix)}


def _largest(parts: Mapping[str, Tensor]) -> Tensor:
    """The size of a term's entries: of a product the product of what its factors have."""
    sizes = [torch.as_tensor(x).abs().amax().double() for x in parts.values() if x.numel()]
    return torch.stack(sizes).prod(0) if sizes else torch.zeros((), dtype=torch.float64)


def operators(
    shape: shapes.Shape,
    parts: Mapping[str, Tensor],
    sizes: tuple[int, int],
    product: Callable[[int], Product],
    span: Span = NOWHERE,
) -> tuple[Operator, ...]:
    """The operator of a block; of several blocks of one shape one for all, or one for each.

    Args:
        shape: Their structure.
        parts: Component tensors by name; of several blocks with an axis for them in front.
        sizes: How many blocks, and parameters in each.
        product: For the number of a block, what makes structures known by their products alone: of
            those there is no stack.
        span: The yield, for messages.
    """
    count, size = sizes

    def one(own: Mapping[str, Tensor], number: int = 0) -> Operator:
        return operator(shape, own, size, product(number), span=span)

    if count == 1:
        return (one(parts),)
    if _by_products(shape):
        return tuple(one({k: t[g] for k, t in parts.items()}, g) for g in range(count))
    return (stacked_from(one, [parts], count),)


def _by_products(shape: shapes.Shape) -> bool:
    """Whether any part of a structure is known by its products alone."""
    match shape:
        case shapes.ProductShape():
            return True
        case shapes.SumShape(terms=terms):
            return any(map(_by_products, terms))
        case shapes.ProjectedShape(inner=inner):
            return _by_products(inner)
        case _:
            return False


def _filled(spectrum: Tensor, factor: Tensor, axes: int, count: int) -> Tensor:
    """The spectrum over all columns; a bare number stands for each of them."""
    value = torch.as_tensor(spectrum, dtype=factor.dtype, device=factor.device)
    return value.reshape(-1) if value.numel() == count and axes else value.expand(count)


def _symmetric(matrix: Tensor, what: str, span: Span, beside: Tensor | None = None) -> Tensor:
    """The symmetric part of a matrix that is symmetric but for rounding, of each of a stack."""

    def part(matrix: Tensor, allowed: float = 0.0) -> Tensor:
        if torch.equal(matrix, matrix.mT):
            return matrix.clone()
        gap = float((matrix - matrix.mT).abs().max()) if matrix.numel() else 0.0
        if gap > max(SYMMETRY * float(matrix.abs().max()), allowed):
            raise _not_symmetric(what, span)
        return (matrix + matrix.mT) / 2

    if beside is None:
        whole: Tensor = at_once(part, matrix)
        return whole
    row = (_NOISE * beside).to(matrix).expand(*matrix.shape[:-2], 1, matrix.shape[-1])
    both = torch.cat([matrix, row], -2)
    term: Tensor = at_once(lambda x: part(x[..., :-1, :], float(x[..., -1, :].max())), both)
    return term


def _not_symmetric(what: str, span: Span) -> SpecError:
    return refusal(
        Code.E0334,
        f"{what} is not symmetric, and a curvature is",
        "yield a sum of outer products, as in `x[i] * x[i']`, or the symmetric part: "
        "`(M[o,o'] + M[o',o]) / 2`",
        labels=label_at(span, "what is yielded here"),
    )
