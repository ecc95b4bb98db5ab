"""What processes prepare of the queries together is, to the last bit, what one process prepares alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.attribution import query_shares
from curvlang.attribution.blocks import ScoredBlock
from curvlang.attribution.query_shares import rank_of
from curvlang.attribution.scorer import Scorer
from tests.processes import together


def flat() -> cv.Task:
    """One position, layers wide enough for a rank to pay."""
    torch.manual_seed(0)
    widths = [nn.Linear(96, 80), nn.Tanh(), nn.Linear(80, 64), nn.Tanh(), nn.Linear(64, 5)]
    X, y = torch.randn(220, 96) / (1 + torch.arange(96) / 2), torch.randint(0, 5, (220,))
    model = nn.Sequential(*widths)
    return cv.Task(model, "cross_entropy", (X[:160], y[:160]), (X[160:], y[160:]))


def sequences(queries: int = 5) -> cv.Task:
    """Several positions, and many more training examples than queries."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9, bias=False), nn.Tanh(), nn.Linear(9, 7))
    X, y = torch.randn(200 + queries, 6, 12), torch.randint(0, 7, (200 + queries, 6))
    return cv.Task(model, "cross_entropy", (X[:200], y[:200]), (X[200:], y[200:]))


TASKS = {"flat": flat, "sequences": sequences, "one query": lambda: sequences(1)}


def scored(name: str, damping: float, evaluated: bool) -> tuple[torch.Tensor, int, int]:
    """Scores alone or among those of an evaluation, and how many spectra this process has factored and queries it has brought back."""
    count = {"factored": 0, "returned": 0}

    def factored(spectrum, pairs):
        count["factored"] += query_shares.searched(spectrum, pairs)
        return rank_of(spectrum, pairs)

    def back(block, gradients):
        count["returned"] += len(gradients)
        return taken(block, gradients)

    taken = ScoredBlock.back
    query_shares.rank_of, ScoredBlock.back = factored, back
    query_shares.WIDE = query_shares.LARGE = 1
    task = TASKS[name]()
    op = cv.fit("ekfac_empirical", task, progress=False)
    if evaluated:
        inverse = op.operator.inverse(damping)
        ((scores,),) = Scorer(task, task.loss, [inverse])
    else:
        scores = cv.influence(op, task, damping=damping, progress=False)
    return scores, count["factored"], count["returned"]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_prepare_a_share_each_and_score_the_same(name, size):
    # At the small damping no rank of the first layer suffices: None is shared too.
    damping = 1e-4 if size == 2 else 1.0
    evaluated = size == 3
    ((wanted, factored, returned),) = together(scored, 1, name, damping, evaluated)
    assert (factored > 1) == (name == "flat")
    assert (returned > 0) == (name != "flat")
    found = together(scored, size, name, damping, evaluated)
    assert all(torch.equal(scores, wanted) for scores, _, _ in found)
    # No spectrum is factored twice, and no query brought back twice.
    assert sum(x for _, x, _ in found) == factored
    assert sum(x for _, _, x in found) == returned
    assert max(x for _, x, _ in found) <= max(1, factored - 1)
