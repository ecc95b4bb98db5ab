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
from scipy.stats import t as student
from torch import Tensor

from curvlang.evaluation.lds import percentile_interval
from curvlang.evaluation.result import Interval

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Pair:
    """`first` against `second`: the difference of LDS, what it allows to say.

    `p` is adjusted by Holm over all pairs of the table; `verdict` is one of `better`, `worse`,
    `cannot be told apart`. `first_at` and `second_at` are the λ of the two.
    """

    first: str
    second: str
    difference: Interval
    p: float
    verdict: str
    first_at: float | None = None
    second_at: float | None = None


def over_models(values: Tensor, *, seed: int = 0, level: float = LEVEL) -> Tensor:
    """The hierarchical bootstrap of a mean over models, `[…, B]`.

    Resample b of the mean over S models is v̄ᵇ + c (Σₛ wₛᵇ vₛᵇ − v̄ᵇ), where w draws models with
    replacement. A plain draw (c = 1) has (S − 1)/S of the variance between models and a normal's
    tails; c = √(S/(S − 1)) · t(S − 1)/t(∞) gives it back, and a Student's quantile.

    Args:
        values: `[S, …, B]` of every model under shared resamples of subsets and queries.
        seed: Of the draws of models.
        level: At which the Student's quantile is matched.

    Returns:
        One model's values as they are: nothing is known of the variance between models.
    """
    count, resamples = values.shape[0], values.shape[-1]
    mean = values.mean(0)
    if count == 1:
        return mean
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, count, (resamples, count), generator=generator)
    weight = torch.zeros(resamples, count, dtype=values.dtype)
    weight.scatter_add_(1, drawn, torch.ones(resamples, count, dtype=values.dtype))
    shape = (count, *[1] * (values.ndim - 2), resamples)
    between = (values * (weight.T / count).reshape(shape)).sum(0) - mean
    return mean + widening(count, level) * between


def widening(models: int, level: float = LEVEL) -> float:
    """C of `over_models`: what S drawn models lack in spread and in tails."""
    tail = (1 + level) / 2
    quantile = float(student.ppf(tail, models - 1) / student.ppf(tail, 10**9))
    return sqrt(models / (models - 1)) * quantile


def interval_of(estimate: float, values: Tensor, level: float = LEVEL) -> Interval:
    """An estimate with the central `level` of its resampled values."""
    return Interval(estimate, *percentile_interval(values, level))


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
class Scored:
    """A method's LDS: the estimate, its resamples `[B]`, and the λ it was taken at."""

    name: str
    estimate: float
    values: Tensor
    at: float | None = None


def all_pairs(methods: Sequence[Scored], level: float = LEVEL) -> tuple[Pair, ...]:
    """Every pair of methods, in the order given, corrected together."""
    found = []
    for first, second in combinations(methods, 2):
        estimate = first.estimate - second.estimate
        difference = first.values - second.values
        found.append(
            (
                first,
                second,
                interval_of(estimate, difference, level),
                p_value(estimate, difference),
            )
        )
    adjusted = holm([p for *_, p in found])
    return tuple(
        Pair(a.name, b.name, interval, p, _verdict(interval, p, level), a.at, b.at)
        for (a, b, interval, _), p in zip(found, adjusted, strict=True)
    )


def _verdict(interval: Interval, p: float, level: float) -> str:
    """Never stronger than the interval or the corrected p-value alone allows."""
    if p >= 1 - level:
        return "cannot be told apart"
    return (
        "better" if interval.low > 0 else "worse" if interval.high < 0 else "cannot be told apart"
    )
