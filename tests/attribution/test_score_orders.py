"""Orders of products give the same scores; their operations and what they hold are as said."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.attribution import score_orders
from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.factored import block_queries
from curvlang.attribution.score_orders import (
    DenseQueries,
    Factors,
    Outer,
    RankQueries,
    factored_spectrum,
    rank_of,
    rounding,
)
from curvlang.costs.predicted import predicted_scores, rotations, score_ranks
from curvlang.models.tracing.blocks import blocks
from tests.runtime.test_layers import assert_close

Q, B = 7, 5
DAMPING = 2.0
SHAPES = [(6, 9), (9, 6)]


def smooth(O: int, I: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """1 / (l r + λ) of falling eigenvalues, [O, I]."""
    left, right = (torch.logspace(0, -6, n, dtype=torch.float64) for n in (O, I))
    return (1 / (torch.outer(left, right) + 0.1)).to(dtype)


def leaves(O: int, I: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(Q, I), (Q, O), (B, 1, I), (B, 1, O)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at_once", [1, 1000, 2**25])
def test_all_orders_agree(shape, at_once, monkeypatch):
    monkeypatch.setattr(score_orders, "AT_ONCE", at_once)
    S = smooth(*shape)
    x, d, a, e = leaves(*shape)
    wanted = torch.einsum("mk,qm,qk,nm,nk->qn", S, d, x, e[:, 0], a[:, 0])
    u, s, v = torch.linalg.svd(S, full_matrices=False)
    held = DenseQueries(torch.einsum("mk,qm,qk->qmk", S, d, x))
    for order in (held, Outer(x, d, S), RankQueries(x, d, Factors((u * s).T, v, 0.0))):
        assert order.count == Q
        assert_close(order.against(a, e, S.dtype), wanted)


def test_a_group_of_positions_is_held():
    x, d, a, e = leaves(6, 9)
    held = DenseQueries(torch.einsum("qm,qk->qmk", d, x))
    two = held.against(torch.cat([a, a], 1), torch.cat([e, -0.5 * e], 1), a.dtype)
    assert_close(two, 0.5 * held.against(a, e, a.dtype))


def test_factors_are_off_by_no_more_than_said():
    S = smooth(60, 80)
    found = factored_spectrum(S, 1e-7, 30)
    assert found is not None
    gap = float(((S - found.left.T @ found.right).abs() / S).max())
    assert gap <= found.error * (1 + 1e-6) <= 1e-7
    # As few as suffice: one factor less is off by more.
    fewer = found.left[:-1].T @ found.right[:-1]
    assert float(((S - fewer).abs() / S).max()) > 1e-7


def test_a_spectrum_without_low_rank_is_taken_as_it_is():
    S = torch.rand(60, 80, generator=torch.Generator().manual_seed(0)) + 0.1
    assert factored_spectrum(S, rounding(S.dtype), 17) is None
    assert rank_of(S, 10**9) is None


def test_no_rank_is_sought_for_few_pairs():
    S = smooth(60, 80, torch.float32)
    assert rank_of(S, 10) is None
    assert rank_of(S, 10**6) is not None


def test_ranked_scores_in_single_precision_are_off_by_rounding():
    S = smooth(128, 160, torch.float32)
    x, d, a, e = leaves(128, 160, torch.float32)
    order = RankQueries(x, d, rank_of(S, 10**6))
    leaf = [v.double() for v in (d, x, e[:, 0], a[:, 0])]
    wanted = torch.einsum("mk,qm,qk,nm,nk->qn", S.double(), *leaf)
    size = torch.einsum("mk,qm,qk,nm,nk->qn", S.double(), *(v.abs() for v in leaf))
    off = ((order.against(a, e, S.dtype) - wanted).abs() / size).max()
    assert float(off) <= rounding(torch.float32)


@pytest.mark.parametrize("shape", [(128, 160), (160, 128)])
def test_operations_are_those_said(shape):
    O, I = shape
    S = smooth(O, I, torch.float32)
    x, d, a, e = leaves(O, I, torch.float32)

    def counted(order) -> int:
        with FlopCounterMode(display=False) as counter:
            order.against(a, e, S.dtype)
        return counter.get_total_flops()

    inner, outer = min(O, I), max(O, I)
    thick = 2 * Q * B * inner * outer + 2 * Q * B * inner
    assert counted(Outer(x, d, S)) == thick
    assert counted(DenseQueries(torch.einsum("qm,qk->qmk", d, x))) == thick
    ranked = RankQueries(x, d, rank_of(S, 10**6))
    assert counted(ranked) == 2 * Q * B * len(ranked.factors.left) * (O + I) < thick / 2


@pytest.fixture(scope="module")
def wide() -> cv.Task:
    """One position, layers wide enough for a rank to pay."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(96, 80), torch.nn.Tanh(), torch.nn.Linear(80, 64), torch.nn.Tanh(),
        torch.nn.Linear(64, 5),
    )  # fmt: skip
    X, y = torch.randn(220, 96) / (1 + torch.arange(96) / 2), torch.randint(0, 5, (220,))
    return cv.Task(model, "cross_entropy", (X[:160], y[:160]), (X[160:], y[160:]))


def test_influence_by_ranks_equals_influence_without(wide, monkeypatch):
    op = cv.fit("ekfac", wide)
    layers = blocks(wide.model, wide.few)
    given = scored_blocks(op.inverse(DAMPING).operator, wide)
    ranks = score_ranks(given, wide)
    assert ranks is not None
    assert ranks[0] is not None
    assert ranks[-1] is None
    rotated = rotations(given)
    thin = predicted_scores(rotated, wide, layers, None, ranks).cost.flops
    assert thin < 0.8 * predicted_scores(rotated, wide, layers, None).cost.flops
    found = cv.influence(op, wide, damping=DAMPING)
    monkeypatch.setattr(score_orders, "PAYS", 10**9)
    assert score_ranks(given, wide) == (None, None, None)
    wanted = cv.influence(op, wide, damping=DAMPING)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert not torch.equal(found, wanted)


def test_queries_take_the_place_of_their_leaves(wide):
    """O + I numbers for every query and layer, not O I."""
    given = scored_blocks(cv.fit("ekfac", wide).inverse(DAMPING).operator, wide)
    assert given is not None
    queries = block_queries(wide, wide.loss, given, None)
    for x in given:
        u = queries[x.layer.name]
        assert isinstance(u, Outer | RankQueries)
        assert u.a.numel() + u.e.numel() == wide.Q * (x.layer.d_out + x.layer.d_in)
