"""Ranks in resamples are exact, ties too; the operations are those of the block sums."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from curvlang.evaluation.statistics import resampled_spearman as resampled
from curvlang.evaluation.statistics.lds import bootstrap_scores, draw_resamples
from curvlang.evaluation.statistics.resampled_spearman import (
    BLOCK,
    Resampling,
    correlations,
    in_rows,
    sort,
)
from curvlang.evaluation.statistics.spearman import ranks, spearman

Q, B = 3, 6


def sample(K: int, tied: bool, seed: int) -> Tensor:
    """Query 0 has no ties in any case."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(Q, K, generator=generator, dtype=torch.float64)
    return torch.cat([values[:1], values[1:].round()]) if tied else values


def repeated(values: Tensor, counts: Tensor) -> Tensor:
    return values.repeat_interleave(counts.long(), -1)


@pytest.mark.parametrize("K", [2, BLOCK - 1, BLOCK, 3 * BLOCK + 5])
@pytest.mark.parametrize("tied", [False, True])
def test_ranks_of_a_resample_are_those_of_sorting_it(K, tied):
    values = sample(K, tied, 0)
    counts = draw_resamples(K, Q, B, 1).subsets
    ordered = sort(values)
    rows, drawn = in_rows(ordered, ordered), Resampling(counts)
    for q in range(Q):
        along, found, square = drawn.ranks(rows, q)
        for b in range(B):
            wanted = torch.tensor(rankdata(repeated(values[q], counts[b]).numpy())) - (K + 1) / 2
            kept = rows.rows[q] < K
            item = rows.rows[q][kept]
            back = torch.empty(K).scatter_(0, item, found[kept, b])
            # Halves are exact in float32: no tolerance.
            assert torch.equal(repeated(back, counts[b]).double(), wanted)
            assert float(along[~kept].abs().sum()) == 0
            assert float(square[b]) == pytest.approx(float(wanted.square().sum()), rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at_once", [1, 200, 2**18])
def test_correlations_are_those_of_sorting_again(tied, at_once, monkeypatch):
    monkeypatch.setattr("curvlang.evaluation.statistics.lds.AT_ONCE", at_once)
    K = 37
    x, other, y = sample(K, tied, 0), sample(K, False, 1), sample(K, tied, 2)
    drawn = draw_resamples(K, Q, B, 1)
    found = bootstrap_scores([x, other], y, drawn)
    for row, method in zip(found, (x, other), strict=True):
        for b in range(B):
            each = spearman(repeated(method, drawn.subsets[b]), repeated(y, drawn.subsets[b]))
            wanted = float((each * drawn.queries[b].double()).sum() / Q)
            assert float(row[b]) == pytest.approx(wanted, abs=2e-6)


def test_a_wrong_count_is_seen():
    """The twin: another resample has other correlations."""
    x, y = sample(40, False, 0), sample(40, False, 1)
    target = sort(y)
    rows, counts = [in_rows(sort(x), target)], draw_resamples(40, Q, B, 1).subsets
    found = correlations(rows, in_rows(target, target), counts)
    other = correlations(rows, in_rows(target, target), counts.roll(1, 0))
    assert float((found - other).abs().min()) > 1e-4


def test_a_resample_of_one_item_counts_as_zero():
    x = sample(5, False, 0)
    counts = torch.tensor([[0.0, 5.0, 0.0, 0.0, 0.0]])
    target = sort(x)
    rows = in_rows(target, target)
    assert torch.equal(correlations([rows], rows, counts), torch.zeros(1, 1, Q).double())


def test_operations_are_those_of_block_sums():
    """(BLOCK + 1) K + (K / BLOCK)² for every side, query and resample: linear in K for long blocks."""
    K = 4 * BLOCK
    target = sort(sample(K, False, 0))
    rows = in_rows(target, target)
    with FlopCounterMode(display=False) as counter:
        correlations([rows, rows], rows, draw_resamples(K, Q, B, 1).subsets)
    each = 2 * B * ((BLOCK + 1) * K + 4 * 4)
    assert counter.get_total_flops() == 3 * Q * each


@pytest.mark.parametrize("tied", [False, True])
def test_ranks_share_averages(tied):
    values = sample(30, tied, 3)
    assert torch.equal(ranks(values) + 1, torch.tensor(rankdata(values.numpy(), axis=1)))


def test_blocks_of_another_length_give_the_same(monkeypatch):
    x, y = sample(40, True, 0), sample(40, True, 1)
    drawn = draw_resamples(40, Q, B, 1)
    found = bootstrap_scores([x], y, drawn)
    monkeypatch.setattr(resampled, "BLOCK", 7)
    assert float((bootstrap_scores([x], y, drawn) - found).abs().max()) < 2e-6
