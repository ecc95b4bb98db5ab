"""All pairs, Holm, models as a level of the bootstrap, and the datamodel ceiling."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from curvlang.evaluation.measures.mislabelled import auc
from curvlang.evaluation.statistics.comparison import (
    Score,
    ScoreSamples,
    all_pairs,
    between_models,
    holm,
    p_value,
    widening,
)
from curvlang.evaluation.statistics.datamodel import datamodel_ceiling, ridge
from curvlang.evaluation.statistics.lds import (
    bootstrap_parts,
    draw_resamples,
    mean_over_queries,
    percentile_interval,
)
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.training.subsets import draw_subsets

EXACT = 1e-10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_step_down_rule(values):
    adjusted = holm(values)
    order = np.argsort(values, kind="stable")
    by_hand = np.maximum.accumulate(
        [min(1.0, (len(values) - k) * values[i]) for k, i in enumerate(order)]
    )
    assert np.allclose(np.array(adjusted)[order], by_hand)


def scored(name, estimate, seed, spread=0.01):
    g = torch.Generator().manual_seed(seed)
    values = estimate + spread * torch.randn(1000, generator=g)
    return Score(
        name, estimate, ScoreSamples(values, values, torch.full((2,), estimate)), torch.zeros(1000)
    )


def test_pairs_are_all_there_and_verdicts_need_interval_and_holm():
    far, near, same = scored("far", 0.9, 0), scored("near", 0.5, 1), scored("same", 0.502, 2)
    found = {(p.first, p.second): p for p in all_pairs([far, near, same])}
    assert set(found) == set(combinations(("far", "near", "same"), 2))
    assert found["far", "near"].verdict == "better"
    assert found["near", "same"].verdict == "cannot be told apart"
    (reverse,) = all_pairs([near, far])
    assert reverse.verdict == "worse"


def test_holm_takes_back_what_a_single_interval_says():
    # 2.2 standard deviations: told apart alone, not among 45 pairs.
    one, other = scored("a", 0.5, 0), scored("b", 0.469, 1)
    (alone,) = all_pairs([one, other])
    assert alone.verdict == "better"
    crowd = [scored(f"c{k}", 0.48, 10 + k) for k in range(8)]
    among = next(p for p in all_pairs([one, other, *crowd]) if p.second == "b")
    assert among.difference == alone.difference
    assert among.difference.low > 0
    assert among.verdict == "cannot be told apart"


def test_p_values_of_a_shift_are_the_normal_ones():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(100_000, generator=g, dtype=torch.float64)
    assert abs(p_value(2.0, values) - 2 * norm.sf(2.0)) < 5e-3
    assert p_value(0.0, torch.zeros(10)) == 1.0
    assert p_value(0.1, torch.zeros(10)) == 0.0


def test_one_model_has_its_own_interval_and_identical_models_add_nothing():
    values = torch.randn(1, 2, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(values.mean(0) + between_models(values), values[0])
    assert float(between_models(values.expand(4, 2, 500)).abs().max()) < 1e-6


def test_models_widen_the_interval_by_students_factor():
    assert widening(2) > widening(3) > widening(10) > 1
    assert abs(widening(10**6) - 1) < 1e-3


def test_the_pigeonhole_bootstrap_is_scaled_to_the_variance_of_a_two_way_mean():
    """K × Q numbers of pure interaction: resampling both triples the variance of their mean."""
    g = torch.Generator().manual_seed(0)
    K, Q = 60, 40
    ratios = []
    for seed in range(60):
        table = torch.randn(Q, K, generator=g, dtype=torch.float64)
        drawn = draw_resamples(K, Q, 400, seed)
        k, q = drawn.subsets.double() / K, drawn.queries.double() / Q
        found = ScoreSamples(((q @ table) * k).sum(1), (table.mean(0) * k).sum(1), table.mean(1))
        ratios.append([float(found.both.var()) * K * Q, float(found.corrected().var()) * K * Q])
    both, corrected = np.mean(ratios, axis=0)
    assert 2.5 < both < 3.5
    assert 0.8 < corrected < 1.4


def test_one_query_leaves_the_variance_over_subsets():
    """Resampling one query is resampling subsets alone: the interval is theirs, not NaN."""
    g = torch.Generator().manual_seed(0)
    effect, good, bad = torch.randn(3, 1, 30, generator=g, dtype=torch.float64)
    drawn = draw_resamples(30, 1, 400, 0)
    made = []
    for name, x in (("good", good + 2 * effect), ("bad", bad)):
        both, subsets = (v[0] for v in bootstrap_parts([x], effect, drawn))
        assert torch.equal(both, subsets)
        within = ScoreSamples(both, subsets, spearman(x, effect))
        moved = within.queries.mean() + both - both.mean()
        assert torch.allclose(within.corrected(), moved, atol=EXACT)
        made.append(Score(name, float(within.queries.mean()), within, torch.zeros(400)))
    (pair,) = all_pairs(made)
    assert pair.verdict == "better"
    assert 0 < pair.p < 0.05
    assert pair.difference.has_ends


def test_a_mean_of_one_query_has_no_interval():
    one = mean_over_queries(torch.tensor([0.25]), resamples=50, seed=0)
    assert one.estimate == 0.25
    assert not one.has_ends
    several = mean_over_queries(torch.tensor([0.0, 1.0, 0.5]), resamples=50, seed=0)
    assert several.has_ends
    assert several.low < several.estimate == 0.5 < several.high
    kept = draw_subsets(30, 20, 0.5, 0)
    additive = datamodel_ceiling(
        kept, torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    )
    assert additive is not None
    assert not additive.has_ends
    single = auc(torch.tensor([2.0]), torch.tensor([0.0, 1.0, 3.0]))
    assert abs(single.estimate - 2 / 3) < EXACT
    assert not single.has_ends


@pytest.mark.parametrize("models", [3, 5])
def test_coverage_over_models(models):
    """Mean over all models of a noisy score: 95 % intervals hold it in 92 to 99 of 100."""
    rng = np.random.default_rng(models)
    inside = 0
    runs = 300
    for run in range(runs):
        truth = 0.5 + 0.05 * rng.standard_normal(models)  # this model's score
        common = 0.02 * rng.standard_normal()  # this draw of subsets
        observed = truth + common
        resamples = observed[:, None] + 0.02 * rng.standard_normal(400)[None]
        values = torch.tensor(resamples)
        drawn = values.mean(0) + between_models(values, seed=run)
        low, high = percentile_interval(drawn, 0.95)
        inside += low <= 0.5 <= high
    assert 0.92 <= inside / runs <= 0.99


def test_ridge_equals_the_normal_equations():
    g = torch.Generator().manual_seed(0)
    masks = draw_subsets(12, 30, 0.5, 0).double()
    y = torch.randn(30, 1, generator=g, dtype=torch.float64)
    new = draw_subsets(12, 5, 0.5, 9).double()
    found = ridge(masks, y, new)
    x = masks - masks.mean(0)
    scale = torch.linalg.eigvalsh(x @ x.T).mean()
    from curvlang.evaluation.statistics.datamodel import STRENGTHS

    candidates = []
    for strength in STRENGTHS:
        w = torch.linalg.solve(
            x.T @ x + strength * scale * torch.eye(12, dtype=x.dtype), x.T @ (y - y.mean(0))
        )
        candidates.append(y.mean(0) + (new - masks.mean(0)) @ w)
    assert min(float((found - c).abs().max()) for c in candidates) <= EXACT


def test_the_datamodel_finds_additive_outcomes_and_nothing_in_noise():
    kept = draw_subsets(20, 100, 0.5, 0)
    g = torch.Generator().manual_seed(1)
    weights = torch.randn(20, 8, generator=g, dtype=torch.float64)
    outcome = kept.double() @ weights
    found = datamodel_ceiling(kept, outcome)
    assert found is not None
    assert found.estimate > 0.95
    noise = torch.randn(100, 200, generator=g, dtype=torch.float64)
    none = datamodel_ceiling(kept, noise)
    assert none is not None
    assert abs(none.estimate) < 0.05
    assert datamodel_ceiling(kept[:9], outcome[:9]) is None
