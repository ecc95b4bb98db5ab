"""The LDS and its bootstrap: ours, a loop of scipy's rank correlations, dattri's LDS, by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from curvlang.costs.rates import Watch
from curvlang.evaluation.statistics.lds import bootstrap_scores, draw_resamples, lds, predictions
from tests.bench.contest import Results, Sizes, Turn

LOOPED = 2
"""Resamples that the loop goes through, on all queries."""
SHOWN = 2


class _Case:
    def __init__(self, sizes: Sizes) -> None:
        generator = torch.Generator().manual_seed(0)
        K, Q, N = sizes["K"], sizes["Q"], sizes["N"]
        self.count = sizes["resamples"]
        self.scores = torch.randn(Q, N, generator=generator)
        # Subsets of one size, as dattri wants them.
        self.kept = torch.rand(K, N, generator=generator).argsort(1).argsort(1) < N // 2
        noise = torch.randn(K, Q, generator=generator)
        self.outcome = noise - self.kept.float() @ self.scores.T / N**0.5
        self.resamples = draw_resamples(K, Q, self.count, 0)


def ours(sizes: Sizes) -> Turn:
    case = _Case(sizes)

    def turn(watch: Watch) -> Results:
        found = lds(case.scores, case.kept, case.outcome, bootstrap=0)
        watch("point")
        lds(case.scores, case.kept, case.outcome, bootstrap=case.count)
        watch("bootstrap")
        few = type(case.resamples)(case.resamples.subsets[:SHOWN], case.resamples.queries[:SHOWN])
        effect = -case.outcome.T.double()
        values = bootstrap_scores([predictions(case.scores, case.kept)], effect, few)
        return {"point": found.per_query, "resamples": values[0]}

    return turn


def loop(sizes: Sizes) -> Turn:
    from scipy.stats import spearmanr

    case = _Case(sizes)

    def turn(watch: Watch) -> Results:
        predicted = (case.scores.double() @ case.kept.double().T).numpy()
        effect = -case.outcome.T.double().numpy()
        point = [spearmanr(a, b).statistic for a, b in zip(predicted, effect, strict=True)]
        watch("point")
        values = []
        for b in range(LOOPED):
            rows = np.repeat(np.arange(predicted.shape[1]), case.resamples.subsets[b].int().numpy())
            each = [
                spearmanr(x[rows], y[rows]).statistic
                for x, y in zip(predicted, effect, strict=True)
            ]
            values.append(float(np.dot(each, case.resamples.queries[b].numpy()) / len(each)))
        watch("bootstrap")
        watch.seconds["bootstrap"] *= case.count / LOOPED
        return {"point": torch.tensor(np.array(point)), "resamples": torch.tensor(values)}

    return turn


def dattri(sizes: Sizes) -> Turn:
    """The point alone: it has no bootstrap."""
    from dattri.metric import lds as theirs

    case = _Case(sizes)
    members = torch.stack([row.nonzero()[:, 0] for row in case.kept])

    def turn(watch: Watch) -> Results:
        # It correlates with the outcome itself, where a higher one is a better model.
        found = theirs(case.scores.T, (-case.outcome, members))[0]
        watch("point")
        return {"point": found.double()}

    return turn


def by_hand(sizes: Sizes) -> Turn:
    """Ranks of a resample from cumulated counts along orders sorted once; no ties."""
    case = _Case(sizes)

    def turn(watch: Watch) -> Results:
        predicted = case.scores.double() @ case.kept.double().T
        effect = -case.outcome.T.double()
        one = torch.ones(1, effect.shape[1])
        point = _correlations(_order(predicted), _order(effect), one)[0].double()
        watch("point")
        orders = _order(predicted), _order(effect)
        values = []
        for counts, queries in zip(*_resamples(case), strict=True):
            found = _correlations(*orders, counts[None])[0]
            values.append((found.double() * queries.double()).sum() / len(found))
        watch("bootstrap")
        return {"point": point, "resamples": torch.stack(values[:SHOWN])}

    return turn


def _resamples(case: _Case) -> tuple[Tensor, Tensor]:
    return case.resamples.subsets, case.resamples.queries


def _order(values: Tensor) -> tuple[Tensor, Tensor]:
    order = values.argsort(1)
    return order, order.argsort(1)


def _correlations(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], counts: Tensor) -> Tensor:
    """[b, Q] of each resample."""
    a, b = (_ranks(sample, counts) for sample in (x, y))
    w = counts[:, None]
    weighted = b * w
    inner = (a * weighted).sum(2)
    return inner / ((a * a * w).sum(2) * (b * weighted).sum(2)).sqrt()


def _ranks(sample: tuple[Tensor, Tensor], counts: Tensor) -> Tensor:
    order, place = sample
    along = counts[:, order]
    ranks = along.cumsum(2) - (along - 1) / 2 - (counts.shape[1] + 1) / 2
    return ranks.gather(2, place.expand(ranks.shape))
