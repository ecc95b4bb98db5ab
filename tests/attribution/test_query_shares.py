"""What processes prepare of the queries together is, to the last bit, what one process prepares alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.attribution import factored, passes, query_shares
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


class Tagger(nn.Module):
    """Words of a sentence, then one answer: positions before the mean, one position behind it."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 7)
        self.head = nn.Linear(7, 4)
        self.causal = causal

    def forward(self, x):
        seen = torch.tanh(self.inner(self.words(x)))
        return self.head(seen if self.causal else seen.mean(1))


def long(*, causal: bool, padded: bool = False, queries: int = 7) -> cv.Task:
    """So many positions that reading a query takes longer than sending it; queries in several batches."""
    torch.manual_seed(0)
    model, N, Q, T = Tagger(causal), 40, queries, 70
    X = torch.randint(1, 11, (N + Q, T))
    y = torch.randint(0, 4, (N + Q, T) if causal else (N + Q,))
    masks = {}
    if padded:
        mask = torch.arange(T) < torch.randint(20, T, (N + Q, 1))
        y = torch.where(mask, y, -100)
        masks = {"mask": mask[:N], "query_mask": mask[N:]}
    return cv.Task(model, "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]), **masks)


TASKS = {"flat": flat, "sequences": sequences, "one query": lambda: sequences(1)}


LONG = {
    "one answer": lambda: long(causal=False),
    "answers": lambda: long(causal=True),
    "padded": lambda: long(causal=True, padded=True),
    "in one batch": lambda: long(causal=True, queries=67),
}


def read_in_shares(name: str, evaluated: bool) -> tuple[torch.Tensor, int]:
    """Scores, and how many queries this process has read."""
    most = 1024 if name == "in one batch" else 2
    passes.MOST, query_shares.WIDE, query_shares.LARGE = most, 100, 2**16
    read = 0

    def counted(task, loss, layers, part, *rest):
        nonlocal read
        for rows, shown in batches(task, loss, layers, part, *rest):
            read += len(shown[layers[0].name][1]) if part == "query" else 0
            yield rows, shown

    batches = factored.leaf_batches
    factored.leaf_batches = counted
    task = LONG[name]()
    op = cv.fit("ekfac_lm_empirical", task, progress=False)
    if evaluated:
        others = [op.operator.inverse(damping) for damping in (0.1, 1.0)]
        found = [torch.cat(x) for x in zip(*Scorer(task, task.loss, others), strict=True)]
        return torch.stack(found), read
    return cv.influence(op, task, damping=0.1, progress=False), read


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


def everything() -> tuple[dict, dict]:
    """What one process finds of every task: prepared, then read in shares."""
    prepared = {
        (name, size): scored(name, 1e-4 if size == 2 else 1.0, size == 3)
        for name in TASKS
        for size in (2, 3)
    }
    read = {(name, own): read_in_shares(name, own) for name in LONG for own in (False, True)}
    return prepared, read


@pytest.fixture(scope="module")
def found() -> dict[int, list[tuple[dict, dict]]]:
    return {size: together(everything, size) for size in (1, 2, 3)}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_prepare_a_share_each_and_score_the_same(found, name, size):
    # At the small damping no rank of the first layer suffices: None is shared too.
    wanted, factored, returned = found[1][0][0][name, size]
    assert (factored > 1) == (name == "flat")
    assert (returned > 0) == (name != "flat")
    shares = [prepared[name, size] for prepared, _ in found[size]]
    assert all(torch.equal(scores, wanted) for scores, _, _ in shares)
    # No spectrum is factored twice, and no query brought back twice.
    assert sum(x for _, x, _ in shares) == factored
    assert sum(x for _, _, x in shares) == returned
    assert max(x for _, x, _ in shares) <= max(1, factored - 1)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_read_a_share_of_the_queries_each(found, name, evaluated, size):
    wanted, read = found[1][0][1][name, evaluated]
    assert read == (67 if name == "in one batch" else 7)
    shares = [own[name, evaluated] for _, own in found[size]]
    assert all(torch.equal(scores, wanted) for scores, _ in shares)
    assert sum(x for _, x in shares) == read
    # Shares of 7 in batches of two are not equal; of 67, four of at most 17.
    assert max(x for _, x in shares) <= (34 if name == "in one batch" else 6)
