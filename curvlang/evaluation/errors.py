"""Influence scores, and how far two curvatures' scores and preconditioned gradients agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis, ties sharing their average; float64."""
    order = values.argsort(dim=-1, stable=True)
    ordered = values.gather(-1, order)
    position = torch.arange(values.shape[-1], dtype=torch.float64, device=values.device)
    if not bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        plain = torch.empty_like(values, dtype=torch.float64)
        return plain.scatter_(-1, order, position.expand_as(values))
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    group = new.cumsum(-1) - 1
    count = torch.zeros_like(ordered, dtype=torch.float64)
    total = torch.zeros_like(count)
    count.scatter_add_(-1, group, torch.ones_like(count))
    total.scatter_add_(-1, group, position.expand_as(count).contiguous())
    average = (total / count.clamp(min=1)).gather(-1, group)
    return torch.empty_like(average).scatter_(-1, order, average)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Rank correlation along the last axis; 0 where one side is constant."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    norm = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(norm > 0, (a * b).sum(-1) / norm.clamp(min=1e-300), 0.0)


def influence_error(found: Tensor, reference: Tensor) -> float:
    """1 − Spearman of the scores against the reference's, mean over queries."""
    return float(1 - spearman(found, reference).mean())


def cosine(found: Tensor, reference: Tensor) -> float:
    """Mean cosine between rows: preconditioned gradients `[n, P]` of two curvatures."""
    return float(torch.nn.functional.cosine_similarity(found, reference, dim=-1).mean())


def inverse_error(reference: Operator, preconditioned: Tensor, gradients: Tensor) -> float:
    """Mean over examples of ‖H C⁻¹v − v‖² / ‖v‖²; rows of zero gradient are left out.

    Args:
        reference: H.
        preconditioned: `[n, P]` rows C⁻¹v.
        gradients: `[n, P]` rows v.
    """
    norms = gradients.square().sum(-1)
    kept = norms > 0
    residual = product(reference, preconditioned) - gradients
    return float((residual.square().sum(-1)[kept] / norms[kept]).mean()) if kept.any() else 0.0


LEAST_WHOLE = 0.1
"""Of the steps' sizes together, how much must be left of them for shares to be told."""


def shares(values: list[float | None]) -> Iterator[float | None]:
    """(e_k − e_{k−1}) / (e_last − e_first) for every step; the first step has none.

    Where the steps all but cancel, the whole is no measure for its parts: no step has a share.
    """
    known = [v for v in values if v is not None]
    total = known[-1] - known[0] if len(known) == len(values) and known else 0.0
    if abs(total) < LEAST_WHOLE * sum(abs(b - a) for a, b in itertools.pairwise(known)):
        total = 0.0
    yield None
    for before, after in itertools.pairwise(values):
        if before is None or after is None or total == 0.0:
            yield None
        else:
            yield (after - before) / total
