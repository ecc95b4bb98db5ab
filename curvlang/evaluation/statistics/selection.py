"""A method at a setting that is chosen by cross-validation, in every resample again.

What is known of the best setting is its score on the data that chose it: too large by what the choice
gained from noise, the optimism. Here settings are chosen in folds of subsets and queries and scored in
the others (`folds`), for the mean over models; a resample draws models, subsets and queries, and
chooses again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.evaluation.statistics.comparison import (
    Score,
    ScoreSamples,
    drawn_models,
    widening,
)
from curvlang.evaluation.statistics.folds import (
    Folds,
    FoldScores,
    at,
    choose,
    held_out,
    held_out_sample,
)


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The score of a method at chosen settings, and which they are, for each fold `[F, G]`."""

    score: Score
    chosen: Tensor

    def shares(self) -> list[tuple[int, float]]:
        """Settings with the share of the folds that chose them, the most frequent first."""
        numbers, counts = self.chosen.unique(return_counts=True)
        found = zip(numbers.tolist(), (counts / self.chosen.numel()).tolist(), strict=True)
        return sorted(found, key=lambda x: (-x[1], x[0]))


def select(name: str, parts: FoldScores, folds: Folds) -> Selection:
    """Choose among settings, all of which have scores.

    Args:
        name: Of the method.
        parts: `[models, settings, …]`.
        folds: Those that the parts are about.
    """
    queries, chosen = held_out_sample(parts.sample.double().mean(0), folds)
    mean = parts.both.double().mean(0)
    settings = choose(mean)
    both = at(mean, settings)
    within = ScoreSamples(both, held_out(parts.subsets.double().mean(0)), queries)
    between = _between(parts.both, both, settings)
    return Selection(Score(name, float(queries.mean()), within, between), chosen)


def _between(parts: Tensor, mean: Tensor, settings: Tensor) -> Tensor:
    """What drawing models adds to every resample, as `comparison.between_models`, chosen again for each.

    `mean` is the score of all models together, at the `settings` that they choose. What few models lack
    in spread is given back at these settings. What changes because drawn models choose otherwise is noise
    of the choice: widened too, it made intervals of three models too long (coverage 1.000 by simulation).
    """
    count, resamples = parts.shape[0], parts.shape[2]
    if count == 1:
        return torch.zeros_like(mean)
    weight = drawn_models(count, resamples).reshape(count, 1, resamples, 1, 1)
    drawn = torch.zeros(parts.shape[1:], dtype=torch.float64)
    for own, share in zip(parts, weight, strict=True):
        drawn += own.double() * share
    kept = at(drawn, settings)
    return widening(count) * (kept - mean) + held_out(drawn) - kept
