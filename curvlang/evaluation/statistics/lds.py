"""The linear datamodelling score: rank agreement of predicted and retrained effects of subsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.statistics.folds import Folds, FoldScores
from curvlang.evaluation.statistics.interval import Interval, one_query_note
from curvlang.evaluation.statistics.resampled_spearman import (
    AT_ONCE,
    Rows,
    correlation_parts,
    correlations,
    in_rows,
    sort,
)
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.models.data.arrays import UnfitError, numbers


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LDSResult(Display):
    """The score, its percentile bootstrap interval, and the score of every query `[Q]`."""

    estimate: float
    low: float
    high: float
    per_query: Tensor
    note: str = ""

    @property
    def interval(self) -> Interval:
        """Estimate and interval alone."""
        return Interval(self.estimate, self.low, self.high)

    def _summary(self) -> str:
        found = f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"
        note = f"; {self.note}" if self.note else ""
        return f"{found}, {len(self.per_query)} queries{note}"

    def __str__(self) -> str:
        return f"LDS {self._summary()}"


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """How often each resample draws each subset `[B, K]` and each query `[B, Q]`.

    Shared by all methods, so that their differences are paired.
    """

    subsets: Tensor
    queries: Tensor


def draw_resamples(subsets: int, queries: int, count: int, seed: int) -> Resamples:
    """Draw resamples of subsets and queries with replacement."""
    generator = torch.Generator().manual_seed(seed)

    def counts(size: int) -> Tensor:
        drawn = torch.randint(0, size, (count, size), generator=generator)
        return torch.zeros(count, size).scatter_add_(1, drawn, torch.ones(count, size))

    return Resamples(counts(subsets), counts(queries))


def predictions(scores: Tensor, kept: Tensor) -> Tensor:
    """Predicted effect of every subset on every query: the sum of its members' scores, `[Q, K]`.

    Sums that differ by no more than the rounding of N additions are made equal: constant scores
    would otherwise be ranked by their rounding.
    """
    total = scores.double() @ kept.to(scores.device, torch.float64).T
    middle = (total.amax(1, keepdim=True) + total.amin(1, keepdim=True)) / 2
    rounding = scores.shape[1] * torch.finfo(torch.float64).eps * scores.double().abs().sum(1)
    flat = (total.amax(1) - total.amin(1)) <= rounding
    return torch.where(flat[:, None], middle, total)


def constant_note(predicted: Tensor, effect: Tensor) -> str:
    """In words, how many queries count as 0 because a side of their correlation is constant."""
    parts = []
    for name, values in (("predictions", predicted), ("outcomes", effect)):
        constant = int((values == values[:, :1]).all(1).sum())
        if constant:
            parts.append(f"{constant} of {len(values)} queries have constant {name}")
    return " and ".join(parts) + " and count as 0" if parts else ""


@validated
def lds(
    scores: Any,
    kept: Any,
    outcome: Any,
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> LDSResult:
    """The linear datamodelling score of influence scores.

    Args:
        scores: `[Q, N]`, positive where training on n lowers the query's metric.
        kept: `[K, N]` of bool, the members of each subset.
        outcome: `[K, Q]` metric after retraining, lower is better; `[K, R, Q]` is averaged over R.
        bootstrap: Resamples of subsets and queries; 0 for no interval.
        level: Coverage of the interval.
        seed: Of the resamples.

    Returns:
        Spearman over subsets of the predicted effect and minus the outcome, averaged over queries:
        a perfect predictor has +1, constant predictions 0 and a note. The interval of one query is
        over subsets alone, with a note.

    Raises:
        SpecError: E0505 for shapes that do not fit or values that are not finite; E0563 and E0874
            for resamples, a level or a seed of another type or out of range.
    """
    given = {"scores": scores, "kept": kept, "outcome": outcome}
    s, k, y = (_tensor(value, name) for name, value in given.items())
    y = y.double().mean(1) if y.ndim == 3 else y.double()
    _check(s, k, y)
    predicted = predictions(s, k).cpu()
    effect = -y.T.cpu()
    per_query = spearman(predicted, effect)
    low = high = nan
    if bootstrap:
        resamples = draw_resamples(len(k), len(s), bootstrap, seed)
        values = bootstrap_scores([predicted], effect, resamples)
        low, high = percentile_interval(values[0], level)
    notes = [constant_note(predicted, effect), one_query_note(len(s)) if bootstrap else ""]
    note = "; ".join(filter(None, notes))
    return LDSResult(float(per_query.mean()), low, high, per_query, note)


def _tensor(value: Any, name: str) -> Tensor:
    try:
        return numbers(value)
    except UnfitError as error:
        raise refusal(Code.E0505, f"`{name}` {error.what}", error.repair) from error


def _check(scores: Tensor, kept: Tensor, outcome: Tensor) -> None:
    fits = (
        scores.ndim == kept.ndim == outcome.ndim == 2
        and scores.shape[1] == kept.shape[1]
        and outcome.shape == (kept.shape[0], scores.shape[0])
        and len(kept) >= 2
    )
    if not fits:
        raise refusal(
            Code.E0505,
            f"scores {tuple(scores.shape)}, kept {tuple(kept.shape)} and outcome "
            f"{tuple(outcome.shape)} do not fit together",
            "give scores [Q, N], kept [K, N] and outcome [K, Q] with K at least 2",
        )
    for name, value in (("scores", scores), ("outcome", outcome)):
        if not bool(torch.isfinite(value).all()):
            raise refusal(Code.E0505, f"`{name}` has values that are not finite", "drop them")


def mean_over_queries(per_query: Tensor, *, resamples: int, seed: int) -> Interval:
    """The mean of a value of each query `[Q]`, resampled over queries; no interval for one query."""
    values = per_query.double().cpu()
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, nan, nan)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, len(values), (resamples, len(values)), generator=generator)
    return Interval(mean, *percentile_interval(values[drawn].mean(1), 0.95))


def percentile_interval(values: Tensor, level: float) -> tuple[float, float]:
    """The central `level` of resampled values."""
    tail = (1 - level) / 2
    low, high = torch.quantile(values.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(low), float(high)


def bootstrap_scores(predicted: Sequence[Tensor], effect: Tensor, resamples: Resamples) -> Tensor:
    """The mean Spearman of every method in every resample of subsets and queries, `[methods, B]`."""
    return bootstrap_parts(predicted, effect, resamples)[0]


def bootstrap_parts(
    predicted: Sequence[Tensor], effect: Tensor, resamples: Resamples
) -> tuple[Tensor, Tensor]:
    """The mean Spearman of every method, twice: subsets and queries resampled, and subsets alone.

    Args:
        predicted: For each method `[Q, K]`.
        effect: `[Q, K]`, larger is better.
        resamples: Shared by all methods.

    Returns:
        `[methods, B]` both.
    """
    queries, subsets = effect.shape
    samples, target = _sorted(predicted, effect)
    out = torch.zeros(len(predicted), len(resamples.subsets), dtype=torch.float64)
    alone = torch.zeros_like(out)
    for rows in _chunks(resamples, subsets):
        weight = resamples.queries[rows].double() / queries
        values = correlations(samples, target, resamples.subsets[rows])
        out[:, rows] = (values * weight).sum(2)
        alone[:, rows] = values.mean(2)
    return out, alone


def bootstrap_folds(
    predicted: Sequence[Tensor], effect: Tensor, resamples: Resamples, folds: Folds
) -> FoldScores:
    """The same, divided into what each fold of subsets and of queries adds to it.

    Args:
        predicted: For each method `[Q, K]`.
        effect: `[Q, K]`, larger is better.
        resamples: Shared by all methods.
        folds: Of subsets and of queries.
    """
    queries, subsets = effect.shape
    samples, target = _sorted(predicted, effect)
    sample = correlation_parts(samples, target, torch.ones(1, subsets), folds.subsets)[:, :, 0]
    shape = len(predicted), len(resamples.subsets), len(folds.subsets), len(folds.queries)
    out, alone = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    grouped = folds.queries.double().T
    for rows in _chunks(resamples, subsets):
        weight = resamples.queries[rows].double() / queries
        values = correlation_parts(samples, target, resamples.subsets[rows], folds.subsets)
        out[:, rows] = ((values * weight) @ grouped).transpose(1, 2)
        alone[:, rows] = ((values / queries) @ grouped).transpose(1, 2)
    return FoldScores(out, alone, sample)


def _sorted(predicted: Sequence[Tensor], effect: Tensor) -> tuple[list[Rows], Rows]:
    """Every method's predictions, linked to the effects."""
    target = sort(effect)
    return [in_rows(x, target) for x in map(sort, predicted)], in_rows(target, target)


def _chunks(resamples: Resamples, subsets: int) -> Iterator[slice]:
    """The resamples that are gone through at once."""
    chunk = max(1, AT_ONCE // subsets)
    for start in range(0, len(resamples.subsets), chunk):
        yield slice(start, start + chunk)
