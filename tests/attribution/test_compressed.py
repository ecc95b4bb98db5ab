"""Queries of low rank: their bound holds for every score, and fails once it is tampered with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import curvlang as cv
from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.compressed import compressed, score_bound
from curvlang.attribution.factored import block_queries
from curvlang.attribution.score_orders import Outer, RankQueries, SharedQueries
from curvlang.attribution.streams.reduced import CompressedQueries
from tests.attribution.block_scores import block_scores
from tests.attribution.test_factored import CHAINS, tasks
from tests.runtime.test_layers import fit

DAMPING = 2.0


@pytest.fixture(scope="module")
def wide() -> cv.Task:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 36), torch.nn.Tanh(), torch.nn.Linear(36, 5))
    X, y = torch.randn(80, 40) / (1 + torch.arange(40) / 2), torch.randint(0, 5, (80,))
    task = cv.Task(model, "cross_entropy", (X[:60], y[:60]), (X[60:], y[60:]))
    return task.to(dtype=torch.float64)


def alike(task: cv.Task) -> cv.Task:
    """Queries of which the second half repeats the first, nearly."""
    X, y = task.query
    X = torch.cat([X, X * (1 + 1e-6)]) if X.is_floating_point() else torch.cat([X, X])
    return task.replaced(query=(X, torch.cat([y, y])))


@pytest.mark.parametrize("name", ["wide", "convolutions", "language"])
def test_the_bound_holds_for_every_score(name, wide):
    task = wide if name == "wide" else alike(tasks()[name])
    op = fit(CHAINS["ekfac"], task)
    given = scored_blocks(op.inverse(DAMPING).operator, task)
    assert given is not None
    exact = block_queries(task, task.loss, given, None, ranked=False)
    found = {key: compressed(u, 1e-3) for key, u in exact.items()}
    kinds = {type(x.queries) for x in found.values()}
    assert (RankQueries if name == "wide" else SharedQueries) in kinds
    wanted = torch.stack(list(block_scores(task, given, exact).values())).sum(0)
    parts = block_scores(task, given, {key: x.queries for key, x in found.items()})
    off = (torch.stack(list(parts.values())).sum(0) - wanted).abs()
    bound = score_bound(task, given, found)
    slack = 1e-13 * wanted.abs().max()
    assert bool((off <= bound + slack).all())
    if name != "language":
        assert float(off.max()) > 10 * slack
        # The twin: with a thousandth of what was left out it does not hold.
        less = {key: replace(x, discarded=x.discarded / 1000) for key, x in found.items()}
        assert bool((off > score_bound(task, given, less) + slack).any())


def test_nothing_is_left_out_where_no_rank_pays():
    S = torch.rand(40, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    queries = Outer(torch.randn(3, 41).double(), torch.randn(3, 40).double(), S)
    found = compressed(queries, 1e-6)
    assert found.queries is queries
    assert float(found.discarded.sum()) == 0


def test_influence_says_its_bound(wide):
    op = cv.fit("ekfac", wide)
    wanted = cv.influence(op, wide, damping=DAMPING)
    with pytest.warns(CompressedQueries) as said:
        found = cv.influence(op, wide, damping=DAMPING, compress=1e-3)
    off = float((found - wanted).abs().max())
    assert 0 < off <= float(str(said[0].message).split()[-1]) * 1.05
    with pytest.warns(CompressedQueries):
        grouped = cv.influence(op, wide, damping=DAMPING, compress=1e-3, groups=[[0, 1], [2]])
    gap = grouped - torch.stack([wanted[:2].sum(0), wanted[2]])
    assert float(gap.abs().max()) < 0.01 * float(wanted.abs().max())


def test_compression_is_refused_where_there_is_none(wide):
    op = cv.fit("ekfac", wide)
    with pytest.raises(cv.SpecError, match="E0594"):
        cv.influence(op, wide, damping=DAMPING, compress=2.0)
    with pytest.raises(cv.SpecError, match="queries of low rank"):
        cv.influence(cv.fit("ggn", wide), wide, damping=DAMPING, compress=1e-3)
