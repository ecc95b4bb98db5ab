"""What generated code calls besides torch: products that read a tensor in the order it is held in.

Columns that come back from a model are held with r before n, whatever the order of their axes: merged in
the order in memory, the axes that a product sums or keeps are one, and nothing is copied.
"""

from __future__ import annotations

from itertools import pairwise
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from curvlang.compiler.codegen.lowering import starts

SLICE = 2**14
"""Elements of a slice from which on it is added by itself."""
BUFFER = 2**17
"""Elements that are squared at once otherwise."""
GROUP = 32
"""Slices that are added up before they meet the others."""


def gram(x: Any, groups: int = 1) -> Tensor:
    """Σ x[…, i] x[…, i'], [I, I]; exactly symmetric with more than one group of columns.

    Args:
        x: A tensor, or what stands for one.
        groups: Groups of columns, each multiplied with itself and the later ones.
    """
    if not isinstance(x, Tensor):
        lead = ascii_lowercase[: len(x.shape) - 1]
        found: Tensor = torch.einsum(f"{lead}y,{lead}z->zy", x, x)
        return found
    rows = _rows(x)[0]
    if groups == 1:
        return rows.T @ rows
    whole = rows.new_empty(rows.shape[1], rows.shape[1])
    for start, stop in pairwise(starts(rows.shape[1], groups)):
        block = rows[:, start:stop].T @ rows[:, start:]
        own = block[:, : stop - start]
        block[:, : stop - start] = (own + own.T) / 2
        whole[start:stop, start:] = block
        whole[stop:, start:stop] = block[:, stop - start :].T
    return whole


def rotate(x: Any, matrix: Tensor) -> Tensor:
    """Σ_i x[…, i] V[i, k]: [..., K], held in the order in which x is."""
    if not isinstance(x, Tensor):
        lead = ascii_lowercase[: len(x.shape) - 1]
        found: Tensor = torch.einsum(f"{lead}y,yz->{lead}z", x, matrix)
        return found
    rows, order = _rows(x)
    moved: Tensor = (rows @ matrix).view(*(x.shape[k] for k in order), matrix.shape[1])
    back = sorted(range(len(order)), key=order.__getitem__)
    return moved.permute(*back, len(order))


def square_sum(x: Any, axes: tuple[int, ...]) -> Tensor:
    """Σ x² over some axes, without a tensor of squares.

    Args:
        x: A tensor, or what stands for one.
        axes: Axes that are summed; not all of them.
    """
    if not isinstance(x, Tensor) or x.device.type != "cpu":
        found: Tensor = x.square().sum(axes)
        return found
    # The summed axis that is outermost in memory leaves slices that are read in one go.
    first = max(axes, key=x.stride)
    slices, rest = x.movedim(first, 0), tuple(k + (k < first) for k in axes if k != first)
    each = slices.shape[1:].numel()
    if not rest and len(slices) and each >= SLICE:
        return _added_slices(slices)
    many = max(1, BUFFER // max(1, each))
    total = x.new_zeros([n for k, n in enumerate(x.shape) if k not in axes])
    for part in slices.split(many):
        total += part.square().sum((0, *rest))
    return total


def _added_slices(slices: Tensor) -> Tensor:
    """Σ over the first axis of squares; groups are added up apart, which keeps rounding small."""
    total = torch.zeros_like(slices[0])
    for group in slices.split(GROUP):
        own = group[0].square()
        for part in group[1:]:
            own.addcmul_(part, part)
        total += own
    return total


def _rows(x: Tensor) -> tuple[Tensor, list[int]]:
    """All axes but the last one merged, [·, I], in the order that is returned: outermost first."""
    strides = x.stride()
    order = sorted(range(x.ndim - 1), key=lambda axis: -strides[axis])
    return x.permute(*order, x.ndim - 1).reshape(-1, x.shape[-1]), order
