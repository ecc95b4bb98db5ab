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
from curvlang.evaluation.ceiling import corrected, noise_ceiling
from curvlang.evaluation.influence import spearman
from curvlang.evaluation.lds import bootstrap_scores, draw_resamples
from curvlang.evaluation.subsets import draw_subsets

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
    assert abs(float(theirs.double().mean()) - found.estimate) <= 1e-6
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
    with pytest.raises(cv.SpecError, match="E0501"):
        cv.LDS(**wrong)


def test_subsets_extend_and_have_their_size():
    few, many = draw_subsets(31, 5, 0.4, 3), draw_subsets(31, 9, 0.4, 3)
    assert torch.equal(few, many[:5])
    assert (many.sum(1) == round(0.4 * 31)).all()
    with pytest.raises(cv.SpecError, match="E0502"):
        draw_subsets(3, 2, 0.01, 0)
