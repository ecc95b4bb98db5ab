"""Cells to groups: models averaged, intervals over models, subsets and queries, pairs compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvlang.evaluation.errors import shares
from curvlang.evaluation.result import Point, Result, Step
from curvlang.evaluation.statistics.comparison import (
    Pair,
    Score,
    ScoreSamples,
    all_pairs,
    between_models,
)
from curvlang.evaluation.statistics.folds import FoldScores, draw_folds
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.selection import Selection, select
from curvlang.evaluation.study.study_result import Cell, Group, Honest, Measure, Row, Share, Spot

Values = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """One inverse of one cell over its models.

    `estimates` is `[methods, settings]`, NaN where a model has none; `within` the resamples of the
    mean over models, `between` what drawing models adds; all None without LDS. `selected` has the
    methods at settings chosen by cross-validation, where there are several.
    """

    results: Sequence[Result]
    estimates: NDArray[np.float64] | None
    within: ScoreSamples | None
    between: Tensor | None
    shared: int
    path: int
    selected: Mapping[int, Selection]

    def scored(self, method: int, setting: int) -> Score | None:
        """The LDS of a method at a setting with its resamples."""
        if self.estimates is None or self.within is None or self.between is None:
            return None
        estimate = float(self.estimates[method, setting])
        if not np.isfinite(estimate):
            return None
        step, w = self.results[0].steps[method], self.within
        at = (method, setting)
        return Score(
            step.label,
            estimate,
            ScoreSamples(w.both[at], w.subsets[at], w.queries[at]),
            self.between[at],
            step.points[setting].damping,
        )

    def honest(self, method: int) -> Score | None:
        """The LDS of a method at settings chosen by cross-validation."""
        found = self.selected.get(method)
        return None if found is None else found.score

    def best(self, method: int) -> int | None:
        """The setting at which a method's LDS is largest."""
        if self.estimates is None or not np.isfinite(self.estimates[method]).any():
            return None
        return int(np.nanargmax(self.estimates[method]))


def merge(cells: Sequence[tuple[Cell, Values]], path: int, inverse: int) -> Group:
    """One group from the models of a cell, all with the same values.

    Args:
        cells: One for each model.
        path: How many of the methods, from the first, are steps of one path.
        inverse: Which of the study's inverses.
    """
    found = [cell for cell, _ in cells]
    results = [cell.results[inverse] for cell in found]
    stack = _stack(results, [values for _, values in cells], inverse, path)
    first = results[0]
    pairs, best_pairs, honest_pairs = _pairs(stack)
    return Group(
        values=found[0].values,
        inverse=first.inverse,
        sweep=first.sweep,
        seeds=tuple(cell.seed for cell in found),
        task=first.task,
        protocol=first.protocol,
        rows=tuple(_row(stack, k, found) for k in range(len(first.steps))),
        shares=tuple(_shares(stack)),
        shared=stack.shared,
        ceiling=_mean_interval([r.ceiling for r in results]),
        additive=_mean_interval([cell.additive for cell in found]),
        pairs=pairs,
        best_pairs=best_pairs,
        seconds=round(sum(sum(cell.seconds.values()) for cell in found), 3),
        measures=tuple(_measured(found, name, inverse) for name in sorted(found[0].measures)),
        honest_pairs=honest_pairs,
    )


def _stack(results: Sequence[Result], values: Sequence[Values], inverse: int, path: int) -> _Stack:
    plain = results[0].steps[0].shared if results[0].steps else 0
    if not all(f"both-{inverse}" in v for v in values):
        return _Stack(results, None, None, None, plain, path, {})
    table = np.array(
        [
            [[np.nan if p.lds is None else p.lds.estimate for p in s.points] for s in r.steps]
            for r in results
        ],
        dtype=np.float64,
    )
    estimates = table.mean(0)
    scored = np.isfinite(estimates).any(1)
    means = np.where(
        np.isfinite(estimates[scored]).all(0), np.nan_to_num(estimates[scored]).mean(0), -np.inf
    )
    shared = int(np.argmax(means)) if scored.any() else plain
    both, subsets, queries = (
        torch.from_numpy(np.stack([v[f"{name}-{inverse}"] for v in values])).double()
        for name in ("both", "subsets", "queries")
    )
    within = ScoreSamples(both.mean(0), subsets.mean(0), queries.mean(0))
    chosen = _selected(results, values, inverse)
    return _Stack(results, estimates, within, between_models(both), shared, path, chosen)


def _selected(
    results: Sequence[Result], values: Sequence[Values], inverse: int
) -> dict[int, Selection]:
    """Every method with several settings that have scores, at those that cross-validation chooses."""
    protocol = results[0].protocol
    if protocol is None or len(results[0].sweep) < 2:
        return {}
    folds = draw_folds(protocol.subsets, protocol.queries, protocol.seed)
    found = {}
    for k, step in enumerate(results[0].steps):
        parts = _folds_of(values, inverse, k)
        known = torch.isfinite(parts.sample).all(0).flatten(1).all(1)
        settings = known.nonzero()[:, 0]
        if len(settings):
            chosen = select(step.label, parts[:, settings], folds)
            found[k] = Selection(chosen.score, settings[chosen.chosen])
    return found


def _folds_of(values: Sequence[Values], inverse: int, method: int) -> FoldScores:
    """Of a method over its models, `[models, settings, …]`."""
    both, subsets, sample = (
        torch.from_numpy(np.stack([v[f"{name}-folds-{inverse}"][method] for v in values]))
        for name in ("both", "subsets", "sample")
    )
    return FoldScores(both, subsets, sample)


def _measured(cells: Sequence[Cell], name: str, inverse: int) -> Measure:
    tables = [cell.measures[name][inverse] for cell in cells]
    values = [table.values for table in tables]
    rows = [list(zip(*rows, strict=True)) for rows in zip(*values, strict=True)]
    return Measure(
        name,
        tuple(tuple(_mean_interval(x) for x in row) for row in rows),
        tuple(dict.fromkeys(note for table in tables for note in table.notes)),
    )


def _pairs(stack: _Stack) -> tuple[tuple[Pair, ...], tuple[Pair, ...], tuple[Pair, ...]]:
    """All pairs at the shared setting, each method at its own best one, and at chosen ones."""
    methods = range(len(stack.results[0].steps))
    shared = [s for k in methods if (s := stack.scored(k, stack.shared)) is not None]
    best = [
        s
        for k in methods
        if (at := stack.best(k)) is not None and (s := stack.scored(k, at)) is not None
    ]
    honest = [s for k in methods if (s := stack.honest(k)) is not None]
    return all_pairs(shared), all_pairs(best), all_pairs(honest)


def _row(stack: _Stack, method: int, cells: Sequence[Cell]) -> Row:
    steps = [r.steps[method] for r in stack.results]
    step = steps[0]
    forwards = [s.forward for s in steps if s.forward is not None]
    return Row(
        label=step.label,
        structure=step.structure,
        memory=step.memory,
        passes=step.passes,
        flops=cells[0].flops.get(step.label),
        forward=_mean([s.forward for s in steps]),
        forwards=tuple(forwards) if len(forwards) == len(steps) else (),
        spots=tuple(
            _spot(stack, method, k, [s.points[k] for s in steps]) for k in range(len(step.points))
        ),
        best=stack.best(method),
        honest=_honest(stack, method),
    )


def _honest(stack: _Stack, method: int) -> Honest | None:
    selected, best = stack.selected.get(method), stack.best(method)
    if selected is None or best is None or (top := stack.scored(method, best)) is None:
        return None
    points = stack.results[0].steps[method].points
    return Honest(
        _possible(selected.score.interval()),
        (top - selected.score).interval(),
        tuple((points[k].damping, round(share, 4)) for k, share in selected.shares()),
    )


def _spot(stack: _Stack, method: int, setting: int, points: Sequence[Point]) -> Spot:
    scored = stack.scored(method, setting)
    seeds = [p.lds.estimate for p in points if p.lds is not None]
    return Spot(
        damping=points[0].damping,
        inverse=_mean([p.inverse for p in points]),
        influence=_mean([p.influence for p in points]),
        cosine=_mean([p.cosine for p in points]),
        lds=_lds(scored, points),
        per_seed=tuple(seeds) if len(seeds) == len(points) else (),
        note="; ".join(dict.fromkeys(p.note for p in points if p.note)),
    )


def _lds(scored: Score | None, points: Sequence[Point]) -> Interval | None:
    """Of one model its own interval, as `curvlang eval` prints it; of several that of their mean."""
    if scored is None or len(points) == 1:
        return points[0].lds
    return _possible(scored.interval())


def _possible(lds: Interval) -> Interval:
    """Cut at −1 and 1: widened for few models, an interval may reach beyond what a correlation can be."""
    low, high = (min(1.0, max(-1.0, x)) for x in (lds.low, lds.high))
    return Interval(lds.estimate, low, high)


def _shares(stack: _Stack) -> list[Share]:
    """What every step of the path adds to its total, the first having none."""
    steps = range(stack.path)
    labels = [stack.results[0].steps[k].label for k in steps]
    if len(labels) < 2:
        return []
    at = stack.shared
    forward = _path(stack, lambda s: s.forward)
    inverse = _path(stack, lambda s: s.points[at].inverse)
    scored = [stack.scored(k, at) for k in steps]
    quality = list(shares([None if s is None else s.estimate for s in scored]))
    best = [None if (b := stack.best(k)) is None else stack.scored(k, b) for k in steps]
    return [
        Share(
            labels[later],
            forward[later],
            inverse[later],
            quality[later],
            _change(scored[earlier], scored[later]),
            _change(best[earlier], best[later]),
            _change(stack.honest(earlier), stack.honest(later)),
        )
        for earlier, later in pairwise(steps)
    ]


def _path(stack: _Stack, measure: Callable[[Step], float | None]) -> list[float | None]:
    """Shares of a measure's mean over models along the path."""
    means = [_mean([measure(r.steps[k]) for r in stack.results]) for k in range(stack.path)]
    return list(shares(means))


def _change(before: Score | None, after: Score | None) -> Interval | None:
    if before is None or after is None:
        return None
    return (after - before).interval()


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean over models; None where one of them has none."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _mean_interval(items: Sequence[Interval | None]) -> Interval | None:
    """Means of estimates and ends: every model of a cell has the same subsets and queries."""
    known = [x for x in items if x is not None]
    if not known or len(known) < len(items):
        return None
    low, high = np.mean([x.low for x in known]), np.mean([x.high for x in known])
    return Interval(float(np.mean([x.estimate for x in known])), float(low), float(high))
