"""LDS of every stage at every setting, with the resampled values that comparisons are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from curvlang.evaluation.fidelity import Fidelity
from curvlang.evaluation.ground_truth import GroundTruth
from curvlang.evaluation.protocol import LDS
from curvlang.evaluation.result import Comparison
from curvlang.evaluation.statistics.ceiling import noise_ceiling
from curvlang.evaluation.statistics.comparison import Resampled
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import (
    Resamples,
    bootstrap_parts,
    constant_note,
    draw_resamples,
    percentile_interval,
    verdict,
)
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.runtime.fit import FittedStage, Progress


@dataclass(slots=True, eq=False)
class Judged:
    """LDS of every step at every setting, and the resampled values behind the intervals."""

    estimates: list[list[float | None]]
    intervals: list[list[Interval | None]]
    values: list[list[Tensor | None]]
    parts: list[list[Resampled | None]]
    constant: list[list[str]]
    ceiling: Interval | None
    shared: int
    level: float

    def comparisons(self, stages: Sequence[FittedStage], shared: int) -> tuple[Comparison, ...]:
        """Each step against the one before it, and the last against the first, all paired."""
        pairs = [(k, k - 1) for k in range(1, len(stages))]
        if len(stages) > 2:
            pairs.append((len(stages) - 1, 0))
        out = []
        for later, earlier in pairs:
            a, b = self.values[later][shared], self.values[earlier][shared]
            x, y = self.estimates[later][shared], self.estimates[earlier][shared]
            if a is None or b is None or x is None or y is None:
                continue
            interval, word = verdict(a - b, x - y, self.level)
            out.append(Comparison(stages[later].label, stages[earlier].label, interval, word))
        return tuple(out)


def judge(
    measured: list[list[Fidelity]],
    truth: GroundTruth | None,
    protocol: LDS | None,
    queries: int,
    progress: Progress | None,
) -> Judged | None:
    """LDS of every stage at every setting, all on the same resamples; None without ground truth."""
    if truth is None or protocol is None:
        return None
    outcome = truth.outcome[:, :, :queries]
    effect = -outcome.mean(1).T.contiguous()
    resamples = draw_resamples(len(truth.kept), queries, protocol.bootstrap, protocol.seed + 1)
    level = 0.95
    flat = [m.predicted for row in measured for m in row]
    parts = _resampled(flat, effect, resamples, progress)
    values = [None if p is None else p.both for p in parts]
    width = len(measured[0])
    estimates = [None if p is None else float(p.queries.mean()) for p in parts]
    intervals = [
        None if v is None or e is None else Interval(e, *percentile_interval(v, level))
        for e, v in zip(estimates, values, strict=True)
    ]

    constant = ["" if p is None else constant_note(p, effect) for p in flat]

    def rows(items: list[Any]) -> list[list[Any]]:
        return [items[k : k + width] for k in range(0, len(items), width)]

    table = rows(estimates)
    scored = [row for row in table if any(x is not None for x in row)]
    means = [
        np.mean([row[k] for row in scored])
        if all(row[k] is not None for row in scored)
        else -np.inf
        for k in range(width)
    ]
    ceiling = noise_ceiling(outcome, resamples, level=level, seed=protocol.seed)
    shared = int(np.argmax(means))
    return Judged(
        table, rows(intervals), rows(values), rows(parts), rows(constant), ceiling, shared, level
    )


def _resampled(
    flat: Sequence[Tensor | None],
    effect: Tensor,
    resamples: Resamples,
    progress: Progress | None,
) -> list[Resampled | None]:
    """Resampled scores of all predictions; the same prediction at several settings is judged once."""
    known = list({id(p): p for p in flat if p is not None}.values())
    pairs = _in_parts(known, effect, resamples, progress)
    drawn = {
        id(p): Resampled(both, subsets, spearman(p, effect))
        for p, (both, subsets) in zip(known, pairs, strict=True)
    }
    return [None if p is None else drawn[id(p)] for p in flat]


def _in_parts(
    known: Sequence[Tensor], effect: Tensor, resamples: Resamples, progress: Progress | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Resampled scores method by method in small groups, so that progress can be shown."""
    for start in range(0, len(known), 5):
        both, alone = bootstrap_parts(known[start : start + 5], effect, resamples)
        yield from zip(both, alone, strict=True)
        if progress is not None:
            progress("bootstrap", min(start + 5, len(known)), len(known))
