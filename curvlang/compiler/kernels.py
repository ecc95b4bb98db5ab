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

from curvlang.compiler.lowering import starts


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


def _rows(x: Tensor) -> tuple[Tensor, list[int]]:
    """All axes but the last one merged, [·, I], in the order that is returned: outermost first."""
    strides = x.stride()
    order = sorted(range(x.ndim - 1), key=lambda axis: -strides[axis])
    return x.permute(*order, x.ndim - 1).reshape(-1, x.shape[-1]), order
