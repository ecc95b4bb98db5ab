"""Coverage of the intervals, by simulation: how often they hold the value they are about.

    python -m tests.bench.bench_coverage

Queries are drawn from a population, subsets at random, outcomes are additive with noise; the true
LDS is that of many queries over many subsets. Two predictors are scored on the same draws, so that
the interval of their difference is tested too. Models: each has an LDS of its own around a mean.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from curvlang.evaluation.statistics.comparison import ScoreSamples, between_models
from curvlang.evaluation.statistics.lds import (
    bootstrap_parts,
    draw_resamples,
    percentile_interval,
    predictions,
)
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.training.subsets import draw_subsets

N = 60
NOISE = (1.0, 1.6)
"""Of the two predictors' scores against the true weights, which have size 1."""
RETRAINING = 3.0
"""Noise of an outcome; an outcome's signal has size √(N/4) ≈ 4."""


def population(queries: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """True weights `[Q, N]` and the two predictors' scores."""
    size = 0.5 + torch.rand(queries, 1, generator=generator, dtype=torch.float64)
    weights = size * torch.randn(queries, N, generator=generator, dtype=torch.float64)
    return weights, [
        weights + x * torch.randn(queries, N, generator=generator, dtype=torch.float64)
        for x in NOISE
    ]


def outcomes(weights: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
    """Effects `[Q, K]` with noise."""
    noise = torch.randn(len(weights), len(kept), generator=generator, dtype=torch.float64)
    return weights @ kept.double().T + RETRAINING * noise


def truth(generator: torch.Generator) -> list[float]:
    """The LDS of both predictors over the whole population."""
    weights, scores = population(3000, generator)
    kept = draw_subsets(N, 2000, 0.5, 10**6)
    effect = outcomes(weights, kept, generator)
    return [float(spearman(predictions(s, kept), effect).mean()) for s in scores]


def coverage(runs: int, subsets: int = 100, queries: int = 60, resamples: int = 500) -> list[float]:
    """Share of runs whose intervals hold the first LDS, the second, and their difference."""
    generator = torch.Generator().manual_seed(0)
    first, second = truth(generator)
    inside = [0, 0, 0]
    for run in range(runs):
        weights, scores = population(queries, generator)
        kept = draw_subsets(N, subsets, 0.5, run)
        effect = outcomes(weights, kept, generator)
        drawn = draw_resamples(subsets, queries, resamples, run)
        found = [predictions(s, kept) for s in scores]
        both, alone = bootstrap_parts(found, effect, drawn)
        one, other = (
            ScoreSamples(both[k], alone[k], spearman(p, effect)) for k, p in enumerate(found)
        )
        wanted = ((one, first), (other, second), (one - other, first - second))
        for k, (x, true) in enumerate(wanted):
            low, high = percentile_interval(x.corrected(), 0.95)
            inside[k] += low <= true <= high
    return [x / runs for x in inside]


def model_coverage(runs: int, models: int, between: float, within: float) -> float:
    """Share of runs in which the interval over models holds the mean over all models."""
    generator = torch.Generator().manual_seed(models)
    inside = 0
    for run in range(runs):
        own = between * torch.randn(models, 1, generator=generator, dtype=torch.float64)
        common = within * torch.randn(1, 1, generator=generator, dtype=torch.float64)
        spread = within * torch.randn(1, 500, generator=generator, dtype=torch.float64)
        low, high = percentile_interval(
            (values := own + common + spread).mean(0) + between_models(values, seed=run), 0.95
        )
        inside += low <= 0 <= high
    return inside / runs


def main(runs: int) -> None:
    """Print observed coverages."""
    print(f"nominal .95, {runs} runs")
    for subsets in (30, 100):
        found = coverage(runs, subsets)
        print(f"K = {subsets}: LDS {found[0]:.3f}, {found[1]:.3f}; difference {found[2]:.3f}")
    for models in (2, 3, 5):
        for between, within in ((1.0, 0.1), (1.0, 1.0), (0.1, 1.0)):
            value = model_coverage(4 * runs, models, between, within)
            print(f"{models} models, spread {between:g} between and {within:g} within: {value:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
