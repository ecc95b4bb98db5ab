"""Coverage of the intervals, by simulation: how often they hold the value they are about.

    python -m tests.bench.bench_coverage [RUNS]

Queries are drawn from a population, subsets at random, outcomes are additive with noise; the true
LDS is that of many queries over many subsets. Two predictors are scored on the same draws, so that
the interval of their difference is tested too, and settings of one predictor, among which λ is chosen
by cross-validation. Models: each has an LDS of its own around a mean, from a normal, a skewed
(exponential) or a mixed distribution, in which one model of seven fails; beside the interval that is
used stand those that could be.
"""

from __future__ import annotations

import sys
from collections import Counter
from math import sqrt

import torch
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor

from curvlang.evaluation.statistics.comparison import ScoreSamples, between_models, drawn_models
from curvlang.evaluation.statistics.folds import FoldScores, draw_folds
from curvlang.evaluation.statistics.lds import (
    bootstrap_folds,
    bootstrap_parts,
    draw_resamples,
    percentile_interval,
    predictions,
)
from curvlang.evaluation.statistics.selection import select
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


def chosen_coverage(runs: int, models: int, subsets: int = 50, queries: int = 30) -> list[float]:
    """Share of runs in which the intervals hold the LDS of a chosen setting, and of the best one.

    Settings are as good as each other, so that the truth does not depend on the choice: the LDS at the
    best setting is too large by what the choice gains.
    """
    generator = torch.Generator().manual_seed(1)
    weights, scores = settings_of(3000, generator, 1)
    kept = draw_subsets(N, 1000, 0.5, 10**6)
    true = float(
        spearman(predictions(scores[0][0], kept), outcomes(weights, kept, generator)).mean()
    )
    inside = [0, 0]
    for run in range(runs):
        weights, scores = settings_of(queries, generator, models)
        kept = draw_subsets(N, subsets, 0.5, run)
        effect = outcomes(weights, kept, generator)
        drawn, folds = draw_resamples(subsets, queries, 200, run), draw_folds(subsets, queries, run)
        found = [
            bootstrap_folds([predictions(s, kept) for s in own], effect, drawn, folds)
            for own in scores
        ]
        parts = FoldScores(
            *(torch.stack([getattr(f, x) for f in found]) for x in ("both", "subsets", "sample"))
        )
        interval = select("chosen", parts, folds).score.interval()
        inside[0] += interval.low <= true <= interval.high
        estimates = parts.sample.sum(2).mean((0, 2))
        best = select("best", parts[:, [int(estimates.argmax())]], folds).score.interval()
        inside[1] += best.low <= true <= best.high
    return [x / runs for x in inside]


def settings_of(
    queries: int, generator: torch.Generator, models: int
) -> tuple[Tensor, list[list[Tensor]]]:
    """True weights and, of every model, the scores of `SETTINGS` settings: noise of models and of settings."""
    weights, _ = population(queries, generator)

    def noise(size: float) -> Tensor:
        drawn = torch.randn(queries, N, generator=generator, dtype=torch.float64)
        return size * drawn

    own = [noise(0.8) for _ in range(models)]
    return weights, [[weights + x + noise(0.8) for _ in range(SETTINGS)] for x in own]


SETTINGS = 5


def deviations(kind: str, models: int, generator: torch.Generator) -> Tensor:
    """How far models are from their mean: variance 1, mean 0."""
    normal = torch.randn(models, 1, generator=generator, dtype=torch.float64)
    uniform = torch.rand(models, 1, generator=generator, dtype=torch.float64)
    match kind:
        case "normal":
            return normal
        case "skewed":
            return 1 + uniform.log()
        case _:
            failed = (uniform < 0.15).double()
            return (0.4 * normal - 2.2 * (failed - 0.15)) / 0.88


def intervals(values: Tensor, seed: int) -> dict[str, tuple[float, float]]:
    """Intervals of the mean over models, by name; the first is the one in use."""
    models, resamples = values.shape
    mean, own = values.mean(0), values.mean(1)
    weight = drawn_models(models, resamples, seed).to(values)
    plain = (values * weight).sum(0)
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (models, resamples), generator=generator) - 1
    flipped = (signs * (own - own.mean())[:, None]).mean(0) * sqrt(models / (models - 1))
    return {
        "widened": percentile_interval(mean + between_models(values, seed=seed), 0.95),
        "plain": percentile_interval(plain, 0.95),
        "t": _satterthwaite(own, float(mean.var())),
        "signs": percentile_interval(mean + flipped, 0.95),
        "BCa": _accelerated(plain, own),
    }


def _satterthwaite(own: Tensor, within: float) -> tuple[float, float]:
    """Student's t with the degrees of freedom of a sum of variances."""
    between = float(own.var()) / len(own)
    freedom = (between + within) ** 2 / max(between**2 / (len(own) - 1), 1e-300)
    reach = float(student.ppf(0.975, min(freedom, 1e6))) * sqrt(between + within)
    return float(own.mean()) - reach, float(own.mean()) + reach


def _accelerated(values: Tensor, own: Tensor) -> tuple[float, float]:
    """BCa (Efron 1987) over models: the jackknife leaves out one model at a time."""
    share = float((values < own.mean()).double().mean())
    start = normal.ppf(min(max(share, 1e-3), 1 - 1e-3))
    left = (own.sum() - own) / (len(own) - 1)
    away = left.mean() - left
    skew = float((away**3).sum() / (6 * (away**2).sum() ** 1.5).clamp(min=1e-300))
    ends = [normal.cdf(start + (start + z) / (1 - skew * (start + z))) for z in (-1.96, 1.96)]
    low, high = torch.quantile(values, torch.tensor(ends, dtype=torch.float64))
    return float(low), float(high)


def model_coverage(
    runs: int, models: int, between: float, within: float, kind: str = "normal"
) -> dict[str, float]:
    """Share of runs in which each interval over models holds the mean over all models."""
    generator = torch.Generator().manual_seed(models)
    inside: Counter[str] = Counter()
    for run in range(runs):
        own = between * deviations(kind, models, generator)
        common = within * torch.randn(1, 1, generator=generator, dtype=torch.float64)
        spread = within * torch.randn(1, 500, generator=generator, dtype=torch.float64)
        spread = spread - spread.mean()
        for name, (low, high) in intervals(own + common + spread, run).items():
            inside[name] += low <= 0 <= high
    return {name: count / runs for name, count in inside.items()}


def main(runs: int) -> None:
    """Print observed coverages."""
    print(f"nominal .95, {runs} runs", flush=True)
    for subsets in (30, 100):
        found = coverage(runs, subsets)
        print(f"K = {subsets}: LDS {found[0]:.3f}, {found[1]:.3f}; difference {found[2]:.3f}")
    for models in MODELS:
        chosen, best = chosen_coverage(max(20, runs // 5), models)
        print(f"{models} models: chosen setting {chosen:.3f}, best setting {best:.3f}", flush=True)
    print(f"{'':44}" + "".join(f"{x:>9}" for x in intervals(torch.randn(3, 9).double(), 0)))
    for kind in KINDS:
        for models in (2, *MODELS):
            for between, within in ((1.0, 0.1), (1.0, 1.0), (0.1, 1.0)):
                values = model_coverage(2 * runs, models, between, within, kind)
                head = f"{kind}, {models} models, {between:g} between, {within:g} within"
                print(f"{head:44}" + "".join(f"{x:9.3f}" for x in values.values()), flush=True)


MODELS = (3, 5, 10)
KINDS = ("normal", "skewed", "mixed")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
