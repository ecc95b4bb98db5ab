"""Settings chosen by cross-validation: folds add up, choices never see what they are scored on, no optimism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from curvlang.evaluation.statistics.comparison import (
    Score,
    ScoreSamples,
    all_pairs,
    between_models,
    detectable,
    drawn_models,
    widening,
)
from curvlang.evaluation.statistics.folds import (
    FoldScores,
    choose,
    draw_folds,
    held_out,
    held_out_sample,
)
from curvlang.evaluation.statistics.lds import bootstrap_folds, bootstrap_parts, draw_resamples
from curvlang.evaluation.statistics.selection import select
from curvlang.evaluation.statistics.spearman import spearman

EXACT = 1e-12
SINGLE = 1e-6
"""Ranks and their products are summed in float32, exactly up to a few hundred subsets."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(predicted, effect, counts, members):
    """What the subsets of a fold add to Spearman's correlation of a resample, item by item."""
    copies = np.repeat(np.arange(len(counts)), counts.astype(int))
    x, y = (rankdata(v[copies]) - (len(copies) + 1) / 2 for v in (predicted, effect))
    norm = np.sqrt((x**2).sum() * (y**2).sum())
    return (x * y)[members[copies] > 0].sum() / norm


def test_folds_add_what_their_subsets_and_queries_add():
    K, Q = 23, 7
    predicted, effect = normal(Q, K), normal(Q, K, seed=1)
    predicted[0, :9] = predicted[0, 0]
    resamples, folds = draw_resamples(K, Q, 4, 0), draw_folds(K, Q, 0)
    found = bootstrap_folds([predicted], effect, resamples, folds)
    both, alone = bootstrap_parts([predicted], effect, resamples)
    assert torch.allclose(found.both.sum((-2, -1)), both, atol=EXACT)
    assert torch.allclose(found.subsets.sum((-2, -1)), alone, atol=EXACT)
    assert torch.allclose(found.sample[0].sum(0), spearman(predicted, effect), atol=SINGLE)
    for b in range(4):
        for f in range(len(folds.subsets)):
            of_query = [
                by_hand(*(v[q].numpy() for v in (predicted, effect)), resamples.subsets[b].numpy(), folds.subsets[f].numpy())
                for q in range(Q)
            ]  # fmt: skip
            weighted = resamples.queries[b].double() * torch.tensor(of_query) / Q
            assert torch.allclose(
                found.both[0, b, f], folds.queries.double() @ weighted, atol=SINGLE
            )


@pytest.mark.parametrize(("subsets", "queries"), [(100, 180), (12, 1), (3, 2), (7, 5)])
def test_every_item_is_in_one_fold_and_folds_are_even(subsets, queries):
    folds = draw_folds(subsets, queries, 3)
    for part, items in ((folds.subsets, subsets), (folds.queries, queries)):
        assert part.shape == (min(5, items), items)
        assert torch.equal(part.sum(0), torch.ones(items))
        assert float(part.sum(1).max() - part.sum(1).min()) <= 1


@pytest.mark.parametrize("queries", [1, 4])
def test_a_fold_has_no_say_in_its_own_setting(queries):
    parts = normal(3, 6, 5, queries)
    chosen = choose(parts)
    for f in range(5):
        for g in range(queries):
            rows = [r for r in range(5) if r != f]
            columns = [c for c in range(queries) if c != g] or [0]
            rest = parts[:, :, rows][:, :, :, columns].sum((-2, -1))
            assert torch.equal(chosen[:, f, g], rest.argmax(0))
    changed = parts.clone()
    changed[:, :, 0, 0] += 100 * normal(3, 6, seed=1)
    assert torch.equal(choose(changed)[:, 0, 0], chosen[:, 0, 0])
    one_by_one = sum(
        parts.gather(0, chosen[None])[0][:, f, g] for f in range(5) for g in range(queries)
    )
    assert torch.allclose(held_out(parts), one_by_one, atol=EXACT)


def scored(seed, settings=8, K=40, Q=12, resamples=20):
    """Settings that are equally good, each with noise of its own, and the folds of their scores."""
    truth = normal(Q, K, seed=seed)
    predicted = [truth + 2 * normal(Q, K, seed=1000 * (seed + 1) + k) for k in range(settings)]
    folds = draw_folds(K, Q, seed)
    return predicted, truth, bootstrap_folds(predicted, truth, draw_resamples(K, Q, resamples, seed), folds), folds  # fmt: skip


def test_the_best_of_equal_settings_is_optimistic_and_the_chosen_one_is_not():
    best, honest, mean = [], [], []
    for seed in range(60):
        predicted, truth, parts, folds = scored(seed)
        estimates = torch.stack([spearman(p, truth).mean() for p in predicted])
        per_query, _ = held_out_sample(parts.sample, folds)
        best.append(float(estimates.max()))
        honest.append(float(per_query.mean()))
        mean.append(float(estimates.mean()))
    error = np.std(np.array(honest) - mean) / np.sqrt(len(honest))
    assert np.mean(best) - np.mean(mean) > 5 * error
    assert abs(np.mean(honest) - np.mean(mean)) < 3 * error


def test_one_setting_is_the_score_as_it_is():
    _, _, parts, folds = scored(0, settings=1)
    models = FoldScores(*(torch.stack([x, x + 0.01]) for x in (parts.both, parts.subsets, parts.sample)))  # fmt: skip
    found = select("one", models, folds)
    whole = models.both[:, 0].sum((-2, -1))
    assert torch.allclose(found.score.within.both, whole.mean(0), atol=EXACT)
    assert torch.allclose(found.score.between, between_models(whole), atol=EXACT)
    assert found.shares() == [(0, 1.0)]
    assert found.score.estimate == pytest.approx(float(models.sample.sum(2).mean()), abs=SINGLE)


def test_what_drawn_models_choose_otherwise_is_not_widened():
    """Against a loop over resamples; widened, equal settings gave three models' intervals a coverage of 1.000."""
    models, settings, resamples = 3, 6, 40
    both, subsets = (
        normal(models, settings, resamples, 5, 4),
        normal(models, settings, resamples, 5, 4, seed=1),
    )
    folds = draw_folds(25, 8, 0)
    found = select(
        "x", FoldScores(both, subsets, normal(models, settings, 5, 8, seed=2)), folds
    ).score
    drawn, expected = drawn_models(models, resamples).double(), []
    for b in range(resamples):
        parts = both[:, :, b].double()
        own = (drawn[:, b].reshape(-1, 1, 1, 1) * parts).sum(0)
        mean = parts.mean(0)
        kept = own.gather(0, choose(mean)[None]).sum()
        expected.append(widening(models) * (kept - held_out(mean)) + held_out(own) - kept)
    assert torch.allclose(found.between, torch.stack(expected), atol=EXACT)


def test_a_setting_that_is_better_everywhere_is_chosen_everywhere():
    predicted, truth, _, folds = scored(1, settings=2)
    better = bootstrap_folds([predicted[0], truth], truth, draw_resamples(40, 12, 20, 1), folds)
    found = select("x", FoldScores(*(x[None] for x in (better.both, better.subsets, better.sample))), folds)  # fmt: skip
    assert found.shares() == [(1, 1.0)]
    assert found.score.estimate == pytest.approx(1.0, abs=SINGLE)


def test_a_difference_of_the_detectable_size_is_told_apart_four_times_of_five():
    size = detectable(normal(4000, seed=5), 1)
    told = 0
    for seed in range(400):
        shift = size + float(normal(1, seed=seed))
        values = shift + normal(1000, seed=10**4 + seed)
        same = torch.full((2,), shift, dtype=torch.float64)
        zero = torch.zeros(1000, dtype=torch.float64)
        one = Score("one", shift, ScoreSamples(values, values, same), zero)
        other = Score("other", 0.0, ScoreSamples(zero, zero, zero[:2]), zero)
        (pair,) = all_pairs([one, other])
        told += pair.verdict == "better"
        assert pair.detectable == pytest.approx(size, rel=0.1)
    assert 0.74 < told / 400 < 0.86
