"""All pairs of methods compared: hierarchical bootstrap over models, subsets and queries; Holm.

A resample draws subsets and queries once for every method and every model, so that differences are
paired; models (seeds) are drawn on top. A difference is told only where its interval leaves 0 out
and its p-value survives Holm's correction for all pairs of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import erfc, sqrt

import torch
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor

from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import percentile_interval

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Pair:
    """`first` against `second`: the difference of LDS, what it allows to say.

    `p` is adjusted by Holm over all pairs of the table; `verdict` is one of `better`, `worse`,
    `cannot be told apart`. `first_at` and `second_at` are the λ of the two. `detectable` is the
    difference that had been told apart in four cases of five.
    """

    first: str
    second: str
    difference: Interval
    p: float
    verdict: str
    first_at: float | None = None
    second_at: float | None = None
    detectable: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSamples:
    """A score under resampling: subsets and queries `[B]`, subsets alone `[B]`, each query's `[Q]`.

    Differences of scores are differences of all three.
    """

    both: Tensor
    subsets: Tensor
    queries: Tensor

    def __sub__(self, other: ScoreSamples) -> ScoreSamples:
        return ScoreSamples(
            self.both - other.both, self.subsets - other.subsets, self.queries - other.queries
        )

    def corrected(self) -> Tensor:
        """Resamples `[B]` with the variance of the score over subsets and queries.

        A score that is a mean over K subsets and Q queries has the variance k + q + i, of subsets,
        queries and their interaction. Resampling both gives k + q + 3 i (the pigeonhole bootstrap,
        Owen 2007), resampling one of them k + i or q + i: k + q + i is 2 (k + i) + 2 (q + i) minus
        the first. The deviations are scaled to it; never up, never below what one of them has.
        They stand around the score itself: a subset drawn twice shifts rank correlations, and a
        percentile interval would carry the shift twice. One query says nothing of the variance
        over queries: what is left is k, over subsets for that query.
        """
        both, subsets = float(self.both.var()), float(self.subsets.var())
        count = len(self.queries)
        queries = float(self.queries.var()) / count if count > 1 else 0.0
        wanted = max(2 * (subsets + queries) - both, subsets, queries)
        scale = sqrt(min(1.0, wanted / both)) if both > 0 else 1.0
        return self.queries.mean() + scale * (self.both - self.both.mean())


def between_models(values: Tensor, *, seed: int = 0, level: float = LEVEL) -> Tensor:
    """What drawing models adds to every resample of a mean over models, `[…, B]`.

    In resample b the mean over S models is v̄ᵇ + c (Σₛ wₛᵇ vₛᵇ − v̄ᵇ), where w draws models with
    replacement; here is the second part. A plain draw (c = 1) has (S − 1)/S of the variance between
    models and a normal's tails; c = √(S/(S − 1)) · t(S − 1)/t(∞) gives it back, and a Student's
    quantile.

    Args:
        values: `[S, …, B]` of every model under shared resamples of subsets and queries.
        seed: Of the draws of models.
        level: At which the Student's quantile is matched.

    Returns:
        Zero for one model: nothing is known of the variance between models.
    """
    count, resamples = values.shape[0], values.shape[-1]
    mean = values.mean(0)
    if count == 1:
        return torch.zeros_like(mean)
    shape = (count, *[1] * (values.ndim - 2), resamples)
    weight = drawn_models(count, resamples, seed).to(values.dtype).reshape(shape)
    return widening(count, level) * ((values * weight).sum(0) - mean)


def drawn_models(models: int, resamples: int, seed: int = 0) -> Tensor:
    """The weights `[S, B]` of models drawn with replacement in each resample: they add up to 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, models, (resamples, models), generator=generator)
    weight = torch.zeros(resamples, models, dtype=torch.float64)
    weight.scatter_add_(1, drawn, torch.ones(resamples, models, dtype=torch.float64))
    return weight.T / models


def widening(models: int, level: float = LEVEL) -> float:
    """C of `between_models`: what S drawn models lack in spread and in tails."""
    tail = (1 + level) / 2
    quantile = float(student.ppf(tail, models - 1) / student.ppf(tail, 10**9))
    return sqrt(models / (models - 1)) * quantile


def p_value(estimate: float, values: Tensor) -> float:
    """Two-sided, from the normal with the resamples' standard deviation; 1 where nothing varies.

    Counting resamples beyond 0 cannot go below 1/B, which no correction over many pairs survives.
    """
    spread = float(values.std())
    if spread <= 1e-12:
        return 1.0 if abs(estimate) <= 1e-12 else 0.0
    return erfc(abs(estimate) / spread / sqrt(2))


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for all of them together (Holm 1979): the k-th smallest times m − k + 1.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[k]))
        found[k] = largest
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A method's LDS, the mean over models: the estimate, its resamples, the λ it was taken at.

    `between` is what drawing models adds to each resample, `[B]`.
    """

    name: str
    estimate: float
    within: ScoreSamples
    between: Tensor
    at: float | None = None

    @property
    def values(self) -> Tensor:
        """ScoreSamples values `[B]` over models, subsets and queries."""
        return self.within.corrected() + self.between

    def __sub__(self, other: Score) -> Score:
        """The paired difference."""
        return Score(
            f"{self.name} - {other.name}",
            self.estimate - other.estimate,
            self.within - other.within,
            self.between - other.between,
        )

    def interval(self, level: float = LEVEL) -> Interval:
        """The estimate with the central `level` of its resampled values."""
        return Interval(self.estimate, *percentile_interval(self.values, level))


def all_pairs(methods: Sequence[Score], level: float = LEVEL) -> tuple[Pair, ...]:
    """Every pair of methods, in the order given, corrected together."""
    pairs = list(combinations(methods, 2))
    found = [first - second for first, second in pairs]
    adjusted = holm([p_value(x.estimate, x.values) for x in found])
    made = []
    for (first, second), difference, p in zip(pairs, found, adjusted, strict=True):
        interval = difference.interval(level)
        verdict = _verdict(interval, p, level)
        seen = detectable(difference.values, len(pairs), level)
        made.append(Pair(first.name, second.name, interval, p, verdict, first.at, second.at, seen))
    return tuple(made)


POWER = 0.8
"""How often a difference of the detectable size is told apart."""


def detectable(values: Tensor, pairs: int, level: float = LEVEL) -> float:
    """The least difference that is told apart with `POWER`, corrected for all pairs of a table.

    (z₁₋α/₂ₘ + z_power) times the standard deviation of the resamples: Holm's first step, the hardest.

    Args:
        values: Resamples of a difference `[B]`.
        pairs: How many are corrected together.
        level: Of the intervals.
    """
    beyond = float(normal.ppf(1 - (1 - level) / (2 * pairs))) + float(normal.ppf(POWER))
    return beyond * float(values.std())


def _verdict(interval: Interval, p: float, level: float) -> str:
    """Never stronger than the interval or the corrected p-value alone allows."""
    if p >= 1 - level:
        return "cannot be told apart"
    return (
        "better" if interval.low > 0 else "worse" if interval.high < 0 else "cannot be told apart"
    )
