"""LDS against scipy and dattri; its interval against resampling by hand; the ceiling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dattri.metric import lds as their_lds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import curvlang as cv
from curvlang.evaluation.statistics.ceiling import corrected, noise_ceiling
from curvlang.evaluation.statistics.lds import bootstrap_scores, draw_resamples, percentile_interval
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.training.subsets import draw_subsets

EXACT = 1e-12
RANKS32 = 2e-5  # resampled ranks are float32


def example(seed, K=12, N=20, Q=4):
    g = torch.Generator().manual_seed(seed)
    kept = draw_subsets(N, K, 0.5, seed)
    scores = torch.randn(Q, N, generator=g, dtype=torch.float64)
    outcome = torch.randn(K, Q, generator=g, dtype=torch.float64)
    return scores, kept, outcome


@given(st.integers(0, 50))
@settings(max_examples=20)
def test_equals_scipy_and_dattri(seed):
    scores, kept, outcome = example(seed)
    found = cv.lds(scores, kept, outcome, bootstrap=10)
    predicted = (kept.double() @ scores.T).numpy()
    by_hand = [spearmanr(predicted[:, q], -outcome[:, q].numpy())[0] for q in range(len(scores))]
    assert abs(found.estimate - np.mean(by_hand)) <= EXACT
    assert np.abs(found.per_query.numpy() - by_hand).max() <= EXACT
    members = torch.stack([row.nonzero()[:, 0] for row in kept])
    theirs, _ = their_lds(scores.T, (-outcome, members))
    assert float((theirs - found.per_query).abs().max()) <= EXACT
    assert found.low <= found.high


def test_a_perfect_predictor_has_one_and_its_opposite_minus_one():
    scores, kept, _ = example(0)
    outcome = -(kept.double() @ scores.T)
    assert abs(cv.lds(scores, kept, outcome).estimate - 1) <= EXACT
    assert abs(cv.lds(-scores, kept, outcome).estimate + 1) <= EXACT


def test_constant_scores_count_as_zero_with_a_note():
    scores, kept, outcome = example(0)
    found = cv.lds(torch.zeros_like(scores), kept, outcome)
    assert found.estimate == 0
    assert found.low == found.high == 0
    assert "constant" in found.note


@given(st.integers(0, 30), st.booleans())
@settings(max_examples=12)
def test_resampled_ranks_equal_sorting_again(seed, tied):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(3, 9, generator=g, dtype=torch.float64) for _ in range(2))
    if tied:
        x, y = (x * 2).round(), (y * 2).round()
    drawn = draw_resamples(9, 3, 5, seed)
    found = bootstrap_scores([x], y, drawn)[0]
    for b in range(5):
        rows = torch.repeat_interleave(torch.arange(9), drawn.subsets[b].long())
        values = spearman(x[:, rows], y[:, rows])
        for q in range(3):
            a, c = x[q, rows].numpy(), y[q, rows].numpy()
            if a.std() > 0 and c.std() > 0:
                assert abs(float(values[q]) - spearmanr(a, c)[0]) <= 1e-9
        wanted = float((values * drawn.queries[b].double()).sum() / 3)
        assert abs(wanted - float(found[b])) <= RANKS32


def test_ceiling_recovers_a_known_reliability():
    g = torch.Generator().manual_seed(0)
    signal = torch.randn(400, 1, 3, generator=g, dtype=torch.float64)
    noise = torch.randn(400, 4, 3, generator=g, dtype=torch.float64)
    found = noise_ceiling(signal + noise, draw_resamples(400, 3, 50, 0))
    assert found is not None
    assert abs(found.estimate - 0.8) < 0.05  # 4 repetitions of reliability 1/2: 4·½/(1 + 3·½)
    assert noise_ceiling(signal, draw_resamples(400, 3, 50, 0)) is None
    r = torch.tensor(0.5, dtype=torch.float64)
    assert abs(float(corrected(r, 4)) - 2 * 0.5 / 1.5) <= EXACT


@pytest.mark.parametrize(
    "wrong", [{"subsets": 1}, {"keep": 0.0}, {"keep": 1.5}, {"retrains": 0}, {"queries": 0}]
)
def test_protocols_that_measure_nothing_are_refused(wrong):
    with pytest.raises(cv.SpecError, match="E0707"):
        cv.LDS(**wrong)


def test_subsets_extend_and_have_their_size():
    few, many = draw_subsets(31, 5, 0.4, 3), draw_subsets(31, 9, 0.4, 3)
    assert torch.equal(few, many[:5])
    assert (many.sum(1) == round(0.4 * 31)).all()
    with pytest.raises(cv.SpecError, match="E0502"):
        draw_subsets(3, 2, 0.01, 0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.3, 1e-20, 1e20])
def test_constant_scores_are_not_ranked_by_their_rounding(value):
    _, kept, outcome = example(0, K=40, N=301)
    scores = torch.full((4, 301), value, dtype=torch.float64)
    scores[1:] *= torch.tensor([[1.0], [3.0], [0.7]], dtype=torch.float64)
    found = cv.lds(scores, kept, outcome)
    assert found.estimate == found.low == found.high == 0
    assert "4 of 4 queries have constant predictions" in found.note
    scores[0, 0] *= 1 + 1e-6
    assert float(cv.lds(scores, kept, outcome).per_query[0]) != 0


def test_constant_outcomes_count_as_zero_with_a_note():
    scores, kept, outcome = example(0)
    outcome[:, 1] = 0.1
    found = cv.lds(scores, kept, outcome)
    assert float(found.per_query[1]) == 0
    assert "1 of 4 queries have constant outcomes" in found.note


@given(st.integers(0, 50))
@settings(max_examples=20)
def test_ties_share_their_rank_as_in_scipy(seed):
    scores, kept, outcome = example(seed)
    scores, outcome = scores.round(), outcome.round()
    predicted = (kept.double() @ scores.T).numpy()
    found = cv.lds(scores, kept, outcome, bootstrap=0).per_query
    for q in range(len(scores)):
        a, b = predicted[:, q], -outcome[:, q].numpy()
        if a.std() > 0 and b.std() > 0:
            assert abs(float(found[q]) - spearmanr(a, b)[0]) <= EXACT


def test_repetitions_are_averaged_before_ranking():
    scores, kept, _ = example(3)
    outcome = torch.randn(12, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = cv.lds(scores, kept, outcome, bootstrap=0)
    assert found.estimate == cv.lds(scores, kept, outcome.mean(1), bootstrap=0).estimate
    assert np.isnan(found.low)


def test_the_interval_covers_subsets_and_queries():
    """Two extremes: all queries alike (only subsets vary), and queries of +1 and −1."""
    scores, kept, outcome = example(5, K=30)
    alike = cv.lds(scores[:1].expand(4, -1), kept, outcome[:, :1].expand(-1, 4))
    assert alike.high - alike.low > 0.3
    perfect = -(kept.double() @ scores.T)
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    mixed = cv.lds(scores, kept, perfect * sign)
    assert abs(mixed.estimate) <= EXACT
    assert mixed.low <= -0.9
    assert mixed.high >= 0.9


def test_the_interval_covers_the_true_value_as_often_as_it_says():
    """Gaussian queries of known correlation: 6/π asin(ρ/2) is their Spearman."""
    rho, covered, runs = 0.5, 0, 100
    truth = 6 / np.pi * np.arcsin(rho / 2)
    for run in range(runs):
        g = torch.Generator().manual_seed(run)
        x, noise = (torch.randn(10, 60, generator=g, dtype=torch.float64) for _ in range(2))
        y = rho * x + (1 - rho**2) ** 0.5 * noise
        values = bootstrap_scores([x], y, draw_resamples(60, 10, 200, run))[0]
        low, high = percentile_interval(values, 0.95)
        covered += low <= truth <= high
    assert 88 <= covered <= 100  # 95 ± 3 standard errors of a binomial of 100


@pytest.mark.parametrize("repetitions", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("single", [0.2, 0.5])
def test_ceiling_recovers_the_reliability_that_was_put_in(repetitions, single):
    """`single` is one repetition's reliability; R of them have R ρ/(1 + (R − 1) ρ).

    Within 0.03: ranks of normal numbers lose up to 0.02, the rest is sampling.
    """
    g = torch.Generator().manual_seed(repetitions)
    signal = torch.randn(4000, 1, 4, generator=g, dtype=torch.float64)
    noise = torch.randn(4000, repetitions, 4, generator=g, dtype=torch.float64)
    outcome = signal + ((1 - single) / single) ** 0.5 * noise
    found = noise_ceiling(outcome, draw_resamples(4000, 4, 20, 0))
    assert found is not None
    truth = repetitions * single / (1 + (repetitions - 1) * single)
    assert abs(found.estimate - truth) < 0.03
    # A predictor without noise of its own agrees with the truth by the root of the reliability.
    best = float(spearman(signal[:, 0].T, outcome.mean(1).T).mean())
    assert abs(best - truth**0.5) < 0.03


def test_ceiling_of_noise_is_zero_and_finite():
    resamples = draw_resamples(30, 2, 100, 0)
    outcome = torch.randn(30, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    outcome[:, 1] = -outcome[:, 0]
    found = noise_ceiling(outcome, resamples)
    assert found is not None
    assert found.estimate == found.low == found.high == 0
    for repetitions in (2, 3, 5):
        for r in (-1.0, -0.5, 0.0):
            assert float(corrected(torch.tensor(r, dtype=torch.float64), repetitions)) == 0
        assert float(corrected(torch.tensor(1.0, dtype=torch.float64), repetitions)) == 1
