"""Products of two tensors that are more than an einsum: Gram matrices, and rows times a matrix.

Columns are split into groups in a Gram matrix xᵀx, and each group meets itself and the later ones alone: what lies
below the diagonal is mirrored. With c groups of equal width that is (c + 1)/2c of the operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from curvlang.compiler.codegen.instructions import Gram, Rotation, Tensor
from curvlang.ir.expr import Index

GROUP = 256
"""Columns of a group: narrower ones keep a matrix product from its peak."""
ROWS = 256
"""Rows below which mirroring costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product of two tensors with the indices of its result and its floating-point operations."""

    operation: Gram | Rotation
    indices: tuple[Index, ...]
    flops: int


def product(
    left: Tensor, right: Tensor, kept: Sequence[Index], sizes: Mapping[str, int]
) -> Product | None:
    """The product as one of the forms that this module knows; None for any other.

    Args:
        left: A tensor.
        right: Another one, or the same.
        kept: Indices of the result, in any order.
        sizes: Lengths of the spaces.
    """
    if len(left.indices) < 2 or len(right.indices) < 2 or len(kept) < 2:
        return None
    if left.name == right.name:
        return _gram(left, right, kept, sizes)
    for rows, matrix in ((left, right), (right, left)):
        if _streams(rows.indices) and not _streams(matrix.indices):
            return _rotated(rows, matrix, kept, sizes)
    return None


def groups(columns: int, rows: int) -> int:
    """Into how many groups the columns of a Gram matrix are split."""
    return max(1, columns // GROUP) if rows >= ROWS else 1


def starts(columns: int, count: int) -> list[int]:
    """Where every group begins, and where the last one ends."""
    width, more = divmod(columns, count)
    return [0, *accumulate(width + (k < more) for k in range(count))]


def gram_flops(rows: int, columns: int, count: int) -> int:
    """Operations: every group with itself and the later ones."""
    return sum(
        2 * rows * (stop - start) * (columns - start)
        for start, stop in pairwise(starts(columns, count))
    )


def _gram(
    left: Tensor, right: Tensor, kept: Sequence[Index], sizes: Mapping[str, int]
) -> Product | None:
    """Σ x[…, i] x[…, i'] over all but the last axis."""
    own, other = left.indices, right.indices
    if own[:-1] != other[:-1] or len(kept) != 2 or set(kept) != {own[-1], other[-1]}:
        return None
    rows, columns = prod(sizes[x.space] for x in own[:-1]), sizes[own[-1].space]
    count = groups(columns, rows)
    return Product(Gram(left.name, count), tuple(kept), gram_flops(rows, columns, count))


def _rotated(
    rows: Tensor, matrix: Tensor, kept: Sequence[Index], sizes: Mapping[str, int]
) -> Product | None:
    """Σ_i x[…, i] V[i, k], the axes of x kept in their order."""
    own, pair = rows.indices, matrix.indices
    if len(pair) != 2 or own[-1] not in pair or pair[0] == pair[1]:
        return None
    new = pair[1] if pair[0] == own[-1] else pair[0]
    found = (*own[:-1], new)
    if new in own or set(found) != set(kept) or len(set(found)) < len(found):
        return None
    flops = 2 * prod(sizes[x.space] for x in (*own, new))
    return Product(Rotation(rows.name, matrix.name, pair[0] != own[-1]), found, flops)


def _streams(indices: Sequence[Index]) -> bool:
    return any(x.space == "n" for x in indices)
