"""Influence scores from rows of gradients and an inverse, in the precision of each."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.operators.operator import Operator


def product(operator: Operator, rows: Tensor) -> Tensor:
    """C v for every row v of `[n, P]`, computed in the operator's precision, returned in the rows'."""
    return (operator @ rows.to(operator.dtype).T).T.to(rows.dtype)


def scores(inverse: Operator, query: Tensor, train: Tensor, *, chunk: int = 4096) -> Tensor:
    """`score[q,n] = ∇m_qᵀ C⁻¹ ∇ℓ_n`: positive where training on n lowers the query's metric.

    Args:
        inverse: C⁻¹ on P parameters.
        query: `[Q, P]` gradients of the queries' metric.
        train: `[N, P]` gradients of the training examples' losses.
        chunk: Queries preconditioned at once, which bounds memory to `chunk × P`.

    Returns:
        `[Q, N]` scores, not divided by N.
    """
    # The queries are the smaller side: precondition them, then one product with all examples.
    parts = [
        product(inverse, query[start : start + chunk]) @ train.T
        for start in range(0, len(query), chunk)
    ]
    return torch.cat(parts) if parts else query.new_zeros((0, len(train)))
