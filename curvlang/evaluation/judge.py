"""LDS of every row at every setting, with the resampled values that comparisons are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from torch import Tensor

from curvlang.evaluation.fidelity import Fidelity
from curvlang.evaluation.ground_truth import GroundTruth
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.result import Comparison
from curvlang.evaluation.statistics.ceiling import noise_ceiling
from curvlang.evaluation.statistics.comparison import LEVEL, Score, ScoreSamples, all_pairs
from curvlang.evaluation.statistics.folds import Folds, FoldScores, draw_folds
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import (
    Resamples,
    bootstrap_folds,
    bootstrap_parts,
    constant_note,
    draw_resamples,
    percentile_interval,
)
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.runtime.progress.listeners import Progress

Cells = list[list[Fidelity]]
"""`[rows][settings]`."""


@dataclass(slots=True, eq=False)
class Judgement:
    """LDS of every row at every setting of an inverse, on shared resamples.

    Args:
        samples: `[rows][settings]`; None without scores.
        intervals: The estimates with their intervals, likewise.
        constant: What is said of queries that count as 0, likewise.
        folds: What each fold adds to the samples, likewise; None where nothing is chosen.
        ceiling: The noise ceiling of the ground truth.
        shared: The setting at which rows are compared: that of the largest mean LDS.
    """

    samples: list[list[ScoreSamples | None]]
    intervals: list[list[Interval | None]]
    constant: list[list[str]]
    folds: list[list[FoldScores | None]]
    ceiling: Interval | None
    shared: int

    def comparisons(self, labels: Sequence[str]) -> tuple[Comparison, ...]:
        """Each step against the one before it, and the last against the first, at the shared setting.

        The differences are those of a study of this one model: paired, corrected for all pairs of the
        rows together.

        Args:
            labels: Of the steps, which are the first rows.
        """
        scores = [self.score(k, label) for k, label in enumerate(labels)]
        known = [k for k in reversed(range(len(labels))) if scores[k] is not None]
        found = dict(
            zip(
                combinations(known, 2),
                all_pairs([s for k in known if (s := scores[k])]),
                strict=True,
            )
        )
        wanted = [(later, earlier) for earlier, later in pairwise(range(len(labels)))]
        if len(labels) > 2:
            wanted.append((len(labels) - 1, 0))
        return tuple(
            Comparison(pair.first, pair.second, pair.difference, pair.verdict)
            for at in wanted
            if (pair := found.get(at)) is not None
        )

    def score(self, row: int, label: str) -> Score | None:
        """The LDS of a row at the shared setting with its resamples."""
        part, interval = self.samples[row][self.shared], self.intervals[row][self.shared]
        if part is None or interval is None:
            return None
        return Score(label, interval.estimate, part, part.both.new_zeros(len(part.both)))


def judge(
    cells: Cells,
    truth: GroundTruth,
    protocol: LDS,
    queries: int,
    progress: Progress | None,
    *,
    folded: bool = False,
) -> Judgement:
    """LDS of every row at every setting, all on the same resamples.

    Args:
        cells: Predicted effects.
        truth: Retrained models.
        protocol: How they were retrained.
        queries: How many are scored.
        progress: Notified of what is done.
        folded: Whether scores are divided into folds, in which settings are chosen.
    """
    outcome = truth.outcome[:, :, :queries]
    effect = -outcome.mean(1).T.contiguous()
    resamples = draw_resamples(len(truth.kept), queries, protocol.bootstrap, protocol.seed + 1)
    known = list({id(m.predicted): m.predicted for row in cells for m in row}.values())
    folds = draw_folds(len(truth.kept), queries, protocol.seed) if folded else None
    resampler = _Resampler(effect, resamples, folds, progress)
    drawn = resampler.of([p for p in known if p is not None])
    table = [[m.predicted for m in row] for row in cells]
    samples = [[None if p is None else drawn[id(p)][0] for p in row] for row in table]
    parts = [[None if p is None else drawn[id(p)][1] for p in row] for row in table]
    intervals = [[None if s is None else _interval(s) for s in row] for row in samples]
    constant = [["" if p is None else constant_note(p, effect) for p in row] for row in table]
    ceiling = noise_ceiling(outcome, resamples, level=LEVEL, seed=protocol.seed)
    return Judgement(samples, intervals, constant, parts, ceiling, shared_setting(intervals))


def _interval(samples: ScoreSamples) -> Interval:
    return Interval(float(samples.queries.mean()), *percentile_interval(samples.both, LEVEL))


def shared_setting(intervals: Sequence[Sequence[Interval | None]]) -> int:
    """The setting of the largest mean LDS, among those at which the most rows have scores."""
    columns = [
        [x.estimate for x in column if x is not None] for column in zip(*intervals, strict=True)
    ]
    most = max(map(len, columns))
    means = [np.mean(c) if c and len(c) == most else -np.inf for c in columns]
    return int(np.argmax(means))


AT_ONCE = 5
"""Methods that are resampled at once, so that progress can be shown."""


@dataclass(frozen=True, slots=True, eq=False)
class _Resampler:
    """Scores of predictions on shared resamples."""

    effect: Tensor
    resamples: Resamples
    folds: Folds | None
    progress: Progress | None

    def of(self, known: Sequence[Tensor]) -> dict[int, tuple[ScoreSamples, FoldScores | None]]:
        """Resampled scores of each prediction, by its identity."""
        return {
            id(p): (ScoreSamples(both, subsets, spearman(p, self.effect)), parts)
            for p, (both, subsets, parts) in zip(known, self._in_turn(known), strict=True)
        }

    def _in_turn(
        self, known: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, FoldScores | None]]:
        for start in range(0, len(known), AT_ONCE):
            some = known[start : start + AT_ONCE]
            if self.folds is None:
                both, alone = bootstrap_parts(some, self.effect, self.resamples)
                yield from zip(both, alone, [None] * len(some), strict=True)
            else:
                found = bootstrap_folds(some, self.effect, self.resamples, self.folds)
                both, alone = (x.sum((-2, -1)) for x in (found.both, found.subsets))
                yield from ((both[k], alone[k], found[k]) for k in range(len(some)))
            if self.progress is not None:
                self.progress("bootstrap", start + len(some), len(known))
