"""How well the ground truth agrees with itself: its reliability ρ over the repetitions.

ρ is the correlation that another, independent ground truth of as many repetitions would have. A
predictor of the expected outcome, without any noise of its own, reaches √ρ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import Resamples, bootstrap_scores, percentile_interval
from curvlang.evaluation.statistics.spearman import spearman

SPLITS = 10
"""Random halvings of the repetitions that the reliability is averaged over."""


def noise_ceiling(
    outcome: Tensor, resamples: Resamples, *, level: float = 0.95, seed: int = 0
) -> Interval | None:
    """Split-half reliability over R, Spearman–Brown corrected to all R repetitions.

    The repetitions are halved at random (an odd R into parts that differ by one), the halves'
    means are rank-correlated over subsets for every query, and the average over queries and
    splits is corrected to the full number.

    Args:
        outcome: `[K, R, Q]` metric after retraining.
        resamples: Of subsets and queries, for the interval.
        level: Coverage of the interval.
        seed: Of the splits.

    Returns:
        The reliability; None for R = 1, which has no halves.
    """
    repetitions = outcome.shape[1]
    if repetitions < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    values, estimates = [], []
    for _ in range(SPLITS):
        order = torch.randperm(repetitions, generator=generator)
        first, second = order[: repetitions // 2], order[repetitions // 2 :]
        a, b = (outcome[:, part].mean(1).T.contiguous() for part in (first, second))
        estimates.append(spearman(a, b).mean())
        values.append(bootstrap_scores([a], b, resamples)[0])
    estimate = corrected(torch.stack(estimates).mean(), repetitions)
    low, high = percentile_interval(corrected(torch.stack(values).mean(0), repetitions), level)
    return Interval(float(estimate), low, high)


def corrected(reliability: Tensor, repetitions: int) -> Tensor:
    """Spearman–Brown: the reliability of R repetitions from that of halves of ⌊R/2⌋ and ⌈R/2⌉.

    For even R this is 2r/(1 + r). For odd R the halves count as their geometric mean h each:
    r = h ρ/(1 + (h − 1) ρ) gives one repetition's ρ, and R ρ/(1 + (R − 1) ρ) the whole. A negative
    r is noise around no reliability at all: the formula has a pole there, so it counts as 0.
    """
    reliability = reliability.clamp(min=0)
    half = ((repetitions // 2) * ((repetitions + 1) // 2)) ** 0.5
    single = reliability / (half - (half - 1) * reliability)
    return repetitions * single / (1 + (repetitions - 1) * single)
