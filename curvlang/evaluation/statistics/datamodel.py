"""The datamodel ceiling: how well an additive predictor, learned from the subsets, ranks new ones.

A datamodel predicts the outcome of a subset from its members, ŷ = b + Σ_{n ∈ S} w_n (Ilyas et al.
2022, arXiv:2202.00622). It is fitted by ridge regression on most of the subsets and scored on the
rest, so that it can only be beaten by additive predictors that know more than K outcomes. It grows
with K: what it shows is a lower bound of what additive predictors can reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import nan

import torch
from torch import Tensor

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import percentile_interval
from curvlang.evaluation.statistics.spearman import spearman

FOLDS = 5
"""Parts of the subsets, each predicted from the others."""
FEWEST = 10
"""Subsets below which a part holds too few to rank."""
STRENGTHS = tuple(10.0**k for k in range(-3, 5))
"""Ridge strengths relative to the mean eigenvalue of the subsets' kernel."""


def datamodel_ceiling(
    kept: Tensor, outcome: Tensor, *, bootstrap: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval | None:
    """LDS of cross-validated ridge regression of the outcomes on the subset masks.

    Within each held-out part the predictions are rank-correlated with the outcomes for every
    query; queries and parts are averaged. Ranks across parts would mix in the parts' intercepts.

    Args:
        kept: `[K, N]` members of each subset.
        outcome: `[K, R, Q]` or `[K, Q]` metric after retraining.
        bootstrap: Resamples of queries and of the random partitions into parts.
        level: Coverage of the interval.
        seed: Of the partitions.

    Returns:
        The score with its interval, none for one query; None for fewer than 10 subsets.
    """
    y = (outcome.mean(1) if outcome.ndim == 3 else outcome).double()
    if len(kept) < FEWEST:
        return None
    generator = torch.Generator().manual_seed(seed)
    masks = kept.to(torch.float64)
    rows = [
        torch.stack(list(_held_out(masks, y, generator))).mean(0)
        for _ in range(4)  # partitions
    ]
    scores = torch.stack(rows)
    if scores.shape[1] < 2:
        return Interval(float(scores.mean()), nan, nan)
    drawn = torch.randint(0, scores.shape[1], (bootstrap, scores.shape[1]), generator=generator)
    which = torch.randint(0, len(scores), (bootstrap,), generator=generator)
    means = scores[which].gather(1, drawn).mean(1)
    return Interval(float(scores.mean()), *percentile_interval(means, level))


def _held_out(masks: Tensor, y: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Rank correlation `[Q]` of each held-out part."""
    order = torch.randperm(len(masks), generator=generator)
    parts = order.chunk(min(FOLDS, len(masks) // (FEWEST // 2)))
    for k, part in enumerate(parts):
        rest = torch.cat([p for j, p in enumerate(parts) if j != k])
        found = ridge(masks[rest], y[rest], masks[part])
        yield spearman(found.T.contiguous(), y[part].T.contiguous())


def ridge(masks: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Predictions `[M, Q]` for new masks, each query with the strength of the least GCV error.

    ŷ = ȳ + K* (K + αI)⁻¹ (y − ȳ) with K = X Xᵀ of the centred masks: one eigendecomposition serves
    every strength and every query. GCV(α) = Σ (residual)² / (1 − tr(hat)/K)² (Golub et al. 1979).

    Args:
        masks: `[K, N]` of the fit.
        y: `[K, Q]` outcomes of the fit.
        new: `[M, N]` to predict.
    """
    centre, mean = masks.mean(0), y.mean(0)
    x = masks - centre
    s, u = torch.linalg.eigh(x @ x.T)
    s = s.clamp(min=0)
    inner = u.T @ (y - mean)
    across = (new - centre) @ x.T @ u
    scale = s.mean()
    best = torch.full((y.shape[1],), float("inf"), dtype=y.dtype, device=y.device)
    found = y.new_zeros(len(new), y.shape[1])
    for strength in STRENGTHS:
        shift = strength * scale
        shrink = shift / (s + shift)
        # The intercept takes one degree of freedom of the hat matrix.
        left = (shrink.sum() - 1).clamp(min=1e-9) / len(y)
        error = (shrink[:, None] * inner).square().sum(0) / left**2
        guess = mean + across @ (inner / (s + shift)[:, None])
        better = error < best
        found = torch.where(better, guess, found)
        best = torch.where(better, error, best)
    return found
