"""Preconditioned queries of low rank, with a bound on every score.

A score of a layer is ⟨u_q, g_n⟩ with u_q = C⁻¹ g_q. With ũ_q in place of u_q it is off by at most
‖u_q − ũ_q‖_F ‖g_n‖_F, and both norms are known.

With one position ũ_q = S̃ ∘ ĝ_q with S̃ of low rank, one factorisation for all queries of a layer.
Elsewhere the queries of a layer, [Q, O I], are combinations of few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.blocks import ScoredBlock, largest_gradient
from curvlang.attribution.passes import BatchLoad, leaf_batches
from curvlang.attribution.score_orders import (
    DenseQueries,
    Outer,
    Queries,
    RankQueries,
    SharedQueries,
    factored_spectrum,
    formed_gradients,
    largest_rank,
)
from curvlang.models.layers import Input
from curvlang.models.padding.spans import in_order
from curvlang.models.task import Task

COLUMNS = 2**16
"""Entries of every query whose products are added up at once, in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class LowRankQueries:
    """Queries of a block, and ‖u_q − ũ_q‖_F of each `[Q]`."""

    queries: Queries
    discarded: Tensor


def compressed(queries: Queries, share: float) -> LowRankQueries:
    """Queries of the lowest rank that leaves out at most `share` of each; as they are if none pays.

    Args:
        queries: Of a block.
        share: Of the norm of every query; with one position, of every entry.
    """
    if isinstance(queries, Outer):
        factors = factored_spectrum(queries.spectrum, share, largest_rank(*queries.spectrum.shape))
        if factors is not None:
            rest = queries.spectrum.double() - factors.left.T.double() @ factors.right.double()
            squares = (queries.e.double().square() @ rest.square()) * queries.a.double().square()
            return LowRankQueries(RankQueries(queries.a, queries.e, factors), squares.sum(1).sqrt())
    if isinstance(queries, DenseQueries):
        return _combined(queries, share)
    return LowRankQueries(queries, torch.zeros(queries.count, dtype=torch.float64))


def _combined(queries: DenseQueries, share: float) -> LowRankQueries:
    """Queries as combinations of the leading directions of their Gram matrix."""
    flat = queries.gradients.flatten(1)
    gram = sum(part.double() @ part.double().T for part in flat.split(COLUMNS, 1))
    assert isinstance(gram, Tensor)
    values, vectors = torch.linalg.eigh(gram)
    # [Q, Q]: what is left of the square of each query without the last k directions.
    left_out = (vectors.square() * values.clamp_min(0)).cumsum(1)
    whole = share**2 * gram.diagonal()
    count = int((left_out <= whole[:, None]).all(0).sum())
    if count == 0:
        return LowRankQueries(
            queries, torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
        )
    kept = vectors[:, count:].to(flat.dtype)
    rows = DenseQueries((kept.T @ flat).view(-1, *queries.gradients.shape[1:]), queries.in_basis)
    return LowRankQueries(SharedQueries(kept, rows), left_out[:, count - 1].sqrt())


def score_bound(
    task: Task, given: Sequence[ScoredBlock], found: Mapping[str, LowRankQueries]
) -> Tensor:
    """By how much the scores of compressed queries may be off, `[Q, N]`: Σ over blocks of both norms."""
    layers = [x.layer for x in given]
    places, parts = [], []
    load = BatchLoad(largest_gradient(given))
    for own, rows in leaf_batches(task, task.loss, layers, "train", load):
        total: Tensor | None = None
        for x in given:
            a, e = x.rotated(*rows[x.layer.name])
            norms = _norms(a, e).double()
            more = torch.outer(found[x.layer.name].discarded.to(norms.device), norms)
            total = more if total is None else total.add_(more)
        assert total is not None
        places.append(own)
        parts.append(total)
    return in_order(places, parts, 1)


def _norms(a: Input, e: Tensor) -> Tensor:
    """‖Σ_t e[n,t] a[n,t]ᵀ‖_F, [B]."""
    if isinstance(a, Tensor) and a.ndim == 3 and a.shape[1] == 1:
        return e[:, 0].norm(dim=1) * a[:, 0].norm(dim=1)
    return formed_gradients(a, e).flatten(1).norm(dim=1)
